"""The tour as a newcomer runs it: every cell, in a real JupyterLab, without a word of complaint."""


def test_tour_runs_cell_by_cell_and_shows_its_views(open_notebook):
    notebook = open_notebook(path="00_tour.ipynb")
    code_cells = notebook.js(
        "Array.from(jupyterapp.shell.currentWidget.content.model.cells, (cell, i) => cell.type === 'code' ? i : -1)"
        ".filter((i) => i >= 0)"
    )
    for index in code_cells:
        notebook.run(index)
        assert [output for output in notebook.outputs(index) if output["output_type"] == "error"] == []
    notebook.wait_for("Bokeh.documents.length >= 1 && Bokeh.documents.every((doc) => doc.is_idle)", timeout=60)
    assert notebook.errors == []
    assert notebook.outside == []
