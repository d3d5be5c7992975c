// After paint.js, in one module with it. Paints the Bokeh document that Python sent, keeps the newest columns of each source, and tells Python what the user did.
//
//   figure   one a page and widget: newest frame a source, newest attributes a model, what waits to be painted
//     view   one a place on the page: its own Bokeh document, fed from its figure
//
// Python's frames are applied without sync, so they never come back; only what the user did is reported.

const DTYPES = {f4: "float32", f8: "float64", i1: "int8", u1: "uint8", i2: "int16", u2: "uint16", i4: "int32", u4: "uint32"};
const REPORT_INTERVAL_MS = 40;
const ACK_INTERVAL_MS = 500; // a message to the kernel, and that JupyterLab shows it as busy, cost half a frame
const REST_MS = 300; // after the last frame
const MEASURE_INTERVAL_MS = 2000; // of texts while frames come without a pause
const WARM_PAINTS = 50; // by then the browser has compiled most of what paints
const PAINT_MS = 8; // left of an idle moment for one more
const PROMISES = 50; // that hang on each other, at most, between new data of Bokeh and the wish to be painted

// ---- BokehJS: from the kernel's package, run once a page

const loaded = (window[Symbol.for("percpu_lab.scripts")] ??= new Map());

async function bokehjs(model, host) {
  const version = model.get("_bokeh_version");
  for (const [name, ref] of model.get("_scripts")) {
    const key = `${version}/${name}`;
    if (!loaded.has(key)) loaded.set(key, runScript(host, ref));
    await loaded.get(key).catch((error) => { loaded.delete(key); throw error; });
  }
  return window.Bokeh[version]; // another version on the same page is left alone
}

async function runScript(host, ref) {
  const {exports} = await host.getWidget(ref);
  const script = document.createElement("script");
  script.text = await exports.text;
  document.head.append(script);
  script.remove();
}

// ---- to Python

// When a timer ends the kernel may have gone: then there is nobody to tell.
function tell(model, message) {
  try {
    model.send(message);
  } catch (error) {
    if (error.message !== "Cannot send") throw error; // what JupyterLab says of a kernel that is no more
  }
}

// ---- frames

// A column: [name, "array", spec], [name, "arrays", [spec, ...]] or [name, "list", values]; a spec is [dtype, shape], or
// [dtype, shape, [number of different rows, of runs]] of a picture in runs (see _wire.py).
// The bytes of all arrays stand in one buffer, in the order of the columns.
function takeFrame({seq, sources, props}, [data = new DataView(new ArrayBuffer(0))]) {
  let at = data.byteOffset;
  const next = (nrBytes) => data.buffer.slice(at, (at += nrBytes)); // unaligned: has to be copied
  const take = ([dtype, shape, runs]) => {
    const nrBytes = shape.reduce((product, length) => product * length, Number(dtype[1]));
    const bytes = runs ? unpacked(next(4 * runs[0]), next(4 * runs[1]), next(runs[1]), shape) : next(nrBytes);
    return {dtype: DTYPES[dtype], shape, bytes};
  };
  const columns = (specs) => specs.map(([name, kind, spec]) =>
    kind === "array" ? [name, take(spec)] : kind === "arrays" ? [name, spec.map(take)] : [name, spec]);
  return {seq, props, sources: sources.map(([id, specs]) => [id, {seq, columns: columns(specs), data: null}])};
}

function unpacked(rowEnds, runEnds, values, [nrRows, width]) {
  const ends = new Uint32Array(runEnds), codes = new Uint8Array(values), last = new Uint32Array(rowEnds);
  const rows = new Uint8Array(last.length * width), picture = new Uint8Array(nrRows * width);
  for (let k = 0, start = 0; k < ends.length; start = ends[k++]) rows.fill(codes[k], start, ends[k]);
  for (let k = 0, row = 0; k < last.length; k++) {
    for (; row < last[k]; row++) picture.set(rows.subarray(k * width, (k + 1) * width), row * width);
  }
  return picture.buffer;
}

function dataOf(ndarray, frame) {
  const array = ({bytes, dtype, shape}) => ndarray(bytes, {dtype, shape});
  const column = (value) => Array.isArray(value) ? value.map((item) => (item?.bytes ? array(item) : item)) : array(value);
  frame.data ??= Object.fromEntries(frame.columns.map(([name, value]) => [name, column(value)]));
  frame.columns = null; // free the message
  return frame.data;
}

class Figure {
  newest = new Map();
  props = new Map();
  waiting = new Map(); // id of a model that has news: attributes
  plots = new Set(); // that ask to be painted
  views = new Set();
  practice = []; // take frames of states that never were out of their messages, as is done for each real one
  isDue = false;
  isMeasuring = true; // of panels and legends: not while frames come
  ackTimer = 0;
  restTimer = 0;

  constructor(model) {
    this.model = model;
    model.on("msg:custom", (content, buffers) => {
      if (content.type === "frame") this.receive(takeFrame(content, buffers));
      if (content.type === "practice") this.practise(() => takeFrame(content, buffers));
    });
    model.send({type: "hello"}); // a reloaded page: Python sends again what this page has not seen
  }

  receive({seq, sources, props}) {
    for (const [id, frame] of sources) {
      if (frame.seq < (this.newest.get(id)?.seq ?? -1)) continue;
      this.newest.set(id, frame);
      if (!this.waiting.has(id)) this.waiting.set(id, {});
    }
    for (const [id, attrs] of Object.entries(props)) {
      this.props.set(id, {...this.props.get(id), ...attrs});
      this.waiting.set(id, {...this.waiting.get(id), ...attrs});
    }
    this.seq = Math.max(this.seq ?? seq, seq);
    window.cancelIdleCallback?.(this.warming);
    this.schedule();
  }

  ask(plot) {
    this.plots.add(plot);
    if (plot.isInSight) this.schedule();
  }

  // Two callbacks of one frame: between them Bokeh's promises are kept, and all plots have asked to be painted.
  schedule() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => this.apply());
    requestAnimationFrame(() => this.paint());
  }

  apply() {
    for (const view of this.views) view.apply(this.waiting);
    this.waiting.clear();
  }

  paint() {
    this.isDue = false;
    const now = performance.now();
    this.busySince ??= now;
    this.repaint(now - this.busySince > MEASURE_INTERVAL_MS);
    this.restSoon();
    this.painted = this.seq;
    if (this.views.size && this.painted !== this.acked) this.ackTimer ||= setTimeout(() => this.ack(), ACK_INTERVAL_MS);
  }

  // All plots at once, so that the browser composes the page once.
  repaint(isMeasuring, isMeant = isPaintable) {
    const plots = [...this.plots].filter(isMeant);
    for (const plot of plots) this.plots.delete(plot);
    if (isMeasuring) {
      this.busySince = null;
      forgetStyles();
    }
    this.isMeasuring = isMeasuring;
    withStylesKept(() => plots.forEach((plot) => plot.repaint()));
    for (const view of this.views) view.write(); // after the plots: else they would wait for the page to be styled anew
  }

  restSoon() {
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => this.rest(), REST_MS);
  }

  // Everything once more, with all that is left out while frames come.
  rest() {
    // hidden ones would be laid out as if the page had no room
    const plots = [...this.views].flatMap((view) => [...view.plots.values()]).filter(({el}) => el.getClientRects().length > 0);
    this.repaintWhole(plots);
    // Bokeh learns how high a legend is when it paints it: too late for the room it gives it.
    this.repaintWhole(plots.filter((plot) => legendsOf(plot).some(({layout}) => layout?.has_size_changed())));
    this.warmUp(plots);
  }

  // What is new to a browser it runs slowly, and compiles on all processors: it is made used to painting while nothing
  // else is to be done, else the first frames of a cell would take twice as long. What it paints then is a frame of a
  // state that never was, if Python has sent some, and the real one at last: nobody sees the others. Plots that are out of
  // sight are painted, too: JupyterLab scrolls to the cell that runs.
  warmUp(plots) {
    if (page.nrWarm >= WARM_PAINTS || !window.requestIdleCallback || !plots.some(isPaintable)) return;
    if (this.model.get("_practises") && this.practice.length === 0) {
      tell(this.model, {type: "practise"}); // no answer while a cell runs: it is asked for once more at the next rest
      return;
    }
    cancelIdleCallback(this.warming);
    this.warming = requestIdleCallback(async (idle) => {
      await this.paintUnseen(plots, idle);
      this.warmUp(plots);
    });
  }

  practise(take) {
    this.practice.push(take);
    this.restSoon();
  }

  // Waits for nothing but promises, so the browser shows nothing of it.
  async paintUnseen(plots, idle) {
    const real = new Map(); // model: attributes
    try {
      do {
        const take = this.practice[page.nrWarm++ % this.practice.length];
        const frame = take?.();
        for (const view of this.views) view.applyForNow(frame, real);
        await this.paintAgain(plots);
      } while (idle.timeRemaining() > PAINT_MS && page.nrWarm < WARM_PAINTS);
    } finally {
      for (const [model, attrs] of real) setForNow(model, attrs);
      await this.paintAgain(plots);
    }
    if (page.nrWarm >= WARM_PAINTS) this.practice = []; // some hundred KB
  }

  async paintAgain(plots) {
    for (let k = 0; k < PROMISES; k++) await null;
    for (const plot of plots) this.plots.add(plot);
    this.repaint(false, isOnPage);
    this.isMeasuring = true; // as at rest: the page may be laid out anew
  }

  repaintWhole(plots) {
    for (const plot of plots) {
      plot.invalidate_painters(); // Bokeh paints only what has changed, and knows nothing of legends and themes
      this.plots.add(plot);
    }
    this.repaint(true);
  }

  ack() {
    this.ackTimer = 0;
    this.acked = this.painted;
    tell(this.model, {type: "ack", seq: this.acked});
  }

  close() {
    clearTimeout(this.ackTimer);
    clearTimeout(this.restTimer);
    window.cancelIdleCallback?.(this.warming);
  }
}

function isPaintable(plot) {
  return plot.isInSight && isOnPage(plot);
}

function isOnPage({el}) {
  return el.isConnected;
}

// Columns are not compared with those before; what is the same else must not count as a change.
function setForNow(model, attrs) {
  model.setv(attrs, {sync: false, check_eq: !("data" in attrs)});
}

function legendsOf(plot) {
  return [...plot.renderer_views.values()].filter(({model}) => model.type === "Legend");
}

// Bokeh takes colours from the page when it paints: a page that turns dark has to be painted again.
function watchTheme(figure) {
  // Not at once: JupyterLab hides the page while it loads a theme.
  const repaint = () => requestAnimationFrame(() => figure.rest());
  const loaded = ({target}) => { if (target.rel === "stylesheet") repaint(); };
  const observer = new MutationObserver(repaint);
  observer.observe(document.body, {attributeFilter: ["data-jp-theme-name", "data-vscode-theme-id"]});
  document.addEventListener("load", loaded, true);
  return () => {
    observer.disconnect();
    document.removeEventListener("load", loaded, true);
  };
}

// ---- a view

class View {
  constructor(figure, Bokeh, root) {
    this.figure = figure;
    this.Bokeh = Bokeh;
    tune(Bokeh);
    this.doc = Bokeh.require("document").Document.from_json(root);
    this.ndarray = Bokeh.require("core/util/ndarray").ndarray;
    this.texts = new Map(); // model of a text: its place on the page
    this.plots = new Map();
    this.sight = new IntersectionObserver((entries) => {
      for (const {target, isIntersecting} of entries) this.see(this.plots.get(target), isIntersecting);
    });
    // A legend that wraps otherwise than at the last paint needs other room.
    this.sizes = new ResizeObserver(() => figure.restSoon());
    this.leaveTheme = watchTheme(figure);
    figure.views.add(this);
  }

  async build(el) {
    const {add_document_standalone} = this.Bokeh.require("embed/standalone");
    const {newest, props} = this.figure; // a late view catches up
    this.apply(new Map([...newest.keys(), ...props.keys()].map((id) => [id, props.get(id) ?? {}])));
    this.manager = await add_document_standalone(this.doc, el);
    for (const {model, markup_el} of this.manager.query((view) => view.model.type === "PreText")) {
      this.texts.set(model, markup_el.firstChild);
    }
    for (const plot of this.manager.query((view) => view.model.type === "Figure")) {
      paintLess(this.Bokeh, plot, () => this.figure.isMeasuring);
      this.watch(plot);
    }
    report(this);
  }

  apply(news) {
    for (const [id, attrs] of news) {
      const model = this.doc.get_model_by_id(id);
      if (model === null) continue;
      const frame = this.figure.newest.get(id);
      if (frame) setData(model, dataOf(this.ndarray, frame));
      const place = this.texts.get(model);
      model.setv(attrs, {sync: false, silent: place !== undefined}); // Bokeh would lay out the document for a text
    }
  }

  // `real` takes in what there was before; without a frame the newest data serve once more.
  applyForNow(frame, real) {
    if (frame === undefined) {
      this.apply(new Map([...this.figure.newest.keys()].map((id) => [id, {}])));
      return;
    }
    const put = (id, attrs) => {
      const model = this.doc.get_model_by_id(id);
      const before = Object.fromEntries(Object.keys(attrs).map((name) => [name, model[name]]));
      real.set(model, {...before, ...real.get(model)});
      setForNow(model, attrs);
    };
    for (const [id, columns] of frame.sources) put(id, {data: dataOf(this.ndarray, columns)});
    for (const [id, attrs] of Object.entries(frame.props)) put(id, attrs);
  }

  write() {
    for (const [model, place] of this.texts) {
      if (place.textContent !== model.text) place.textContent = model.text;
    }
  }

  // A plot out of sight is painted when it comes into sight.
  watch(plot) {
    plot.isInSight = true;
    plot.throttled_paint = async () => this.figure.ask(plot);
    this.plots.set(plot.el, plot);
    this.sight.observe(plot.el);
    for (const {el} of legendsOf(plot)) this.sizes.observe(el);
  }

  see(plot, isInSight) {
    plot.isInSight = isInSight;
    if (isInSight && this.figure.plots.has(plot)) this.figure.schedule();
  }

  remove() {
    this.figure.views.delete(this);
    this.sight.disconnect();
    this.sizes.disconnect();
    this.leaveTheme();
    for (const plot of this.plots.values()) this.figure.plots.delete(plot);
    this.doc.views_manager?.clear(); // not only the roots' views: Bokeh adds one for notifications
    this.doc.clear({sync: false});
    const {documents} = this.Bokeh.require("document");
    const i = documents.indexOf(this.doc);
    if (i >= 0) documents.splice(i, 1);
  }
}

// Rows move from frame to frame: what stays selected is the ids.
function setData(source, data) {
  const {selected} = source;
  const ids = source.get_column("id");
  if (selected.indices.length && ids && data.id) {
    const kept = new Set(selected.indices.map((i) => ids[i]));
    const indices = Array.from(data.id.keys()).filter((i) => kept.has(data.id[i]));
    selected.setv({indices}, {sync: false});
  }
  source.setv({data}, {sync: false, check_eq: false});
}

// ---- what the user did

function report(view) {
  const {doc, manager, figure} = view;
  const put = reporter(figure.model);
  const models = [...doc.all_models];
  const sources = models.filter((m) => m.type === "ColumnDataSource");
  const rows = (kind, source, indices) => {
    const ids = source.get_column("id");
    const hit = Array.from(indices).filter((i) => ids && i < ids.length);
    return {kind, model: source.id, indices: hit, ids: hit.map((i) => ids[i])};
  };
  doc.on_change((event) => {
    if (!event.sync || event.kind !== "ModelChanged") return;
    const {model, attr} = event;
    if (model.type === "Range1d" && (attr === "start" || attr === "end")) {
      put(`range ${model.id}`, () => ({kind: "range", model: model.id, start: model.start, end: model.end}));
    }
    const source = attr === "indices" && sources.find((s) => s.selected === model);
    if (source) put(`select ${source.id}`, () => rows("select", source, source.selected.indices));
  });
  for (const source of sources) watchHover(source, put, rows);
  for (const plot of models.filter((m) => "renderers" in m && "x_range" in m)) watchTap(doc, manager, plot, put, rows);
}

// Sends the newest event of each key at most every REPORT_INTERVAL_MS.
function reporter(model) {
  const queue = new Map();
  let timer = 0;
  const flush = () => {
    timer = 0;
    tell(model, {type: "events", events: [...queue.values()].map((event) => event())});
    queue.clear();
  };
  return (key, event) => {
    queue.set(key, event);
    timer ||= setTimeout(flush, REPORT_INTERVAL_MS);
  };
}

function watchHover(source, put, rows) {
  let before = "";
  source.inspect.connect(() => {
    const event = rows("hover", source, source.inspected.indices);
    const now = event.ids.join();
    if (now !== before) put(`hover ${source.id}`, () => event);
    before = now;
  });
}

function watchTap(doc, manager, plot, put, rows) {
  let nrTaps = 0;
  const tap = ({sx, sy, x, y}) => {
    const event = hit(manager.find_one(plot), {type: "point", sx, sy}, rows) ?? {kind: "tap", model: plot.id};
    put(`tap ${plot.id} ${nrTaps++}`, () => ({...event, x, y}));
  };
  plot.on_event("tap", tap);
  plot.on_event("doubletap", tap); // so Bokeh calls the second of two quick taps, wherever it is
  doc.event_manager.subscribed_models.add(plot);
}

// The rows under a point, of the topmost glyphs whose source has ids.
function hit(plotView, point, rows) {
  for (const renderer of plotView.model.renderers.toReversed()) {
    if (!renderer.visible || !renderer.data_source?.get_column("id")) continue;
    const selection = plotView.views.find_one(renderer)?.hit_test(point);
    if (selection?.indices.length) return rows("tap", renderer.data_source, selection.indices);
  }
  return null;
}

// ---- the widget

function showError(model, el) {
  const text = document.createElement("pre");
  text.setAttribute("role", "alert");
  text.style.color = "var(--jp-error-color1, #b71c1c)";
  const update = () => {
    text.textContent = model.get("_error");
    text.hidden = !text.textContent;
  };
  model.on("change:_error", update);
  update();
  el.append(text);
}

const makeWidget = () => {
  let figure;
  return {
    initialize({model}) {
      figure = new Figure(model);
      return () => figure.close();
    },
    async render({model, el, host}) {
      const place = document.createElement("div");
      el.append(place);
      showError(model, el);
      try {
        const view = new View(figure, await bokehjs(model, host), JSON.parse(model.get("_root")));
        await view.build(place);
        return () => view.remove();
      } catch (error) {
        place.textContent = `This figure cannot be shown: ${error.message}. Reload the page, or run the cell again.`;
        throw error;
      }
    },
  };
};

// Each widget brings this module anew; the first on a page serves all, else the browser would compile it for each.
export default (window[Symbol.for("percpu_lab.live STAMP")] ??= makeWidget);
