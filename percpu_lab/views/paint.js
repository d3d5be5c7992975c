// What BokehJS does at every paint, though seldom needed, is done here when needed: a frame takes half the time.
//
//   tune        once a page, for all that Bokeh paints
//   paintLess   once a plot:  canvas of the plot     painted at every frame, without outlines of texts that have none
//                             canvas of the overlays on the page while something is in it
//                             legend, texts' room    when frames pause
//                             rows in sight          all, where nothing filters them
//                             spare glyphs, indices  when used
//                             what shows nothing     never: empty sources, and what bears the tag "unseen"
//                             legends, tools, mouse  behind the canvases, which are transparent there
//                             tooltips               in the colours of the page

const MOST_WIDTHS = 10_000;
const MOST_SHEETS = 1000;
const FEW_ROWS = 1000; // are painted sooner than found out to be in sight
const CLEAR = "rgba(0, 0, 0, 0)";
const OPAQUE = /^#[0-9a-f]{6}$/; // as a canvas names a colour
const ALL_BITS = 0xffffffff; // of a word
const TOOLTIP_CSS = `:host {
  --tooltip-color: var(--jp-layout-color1, var(--vscode-editor-background, white));
  --tooltip-text: var(--jp-ui-font-color1, var(--vscode-editor-foreground, black));
  --tooltip-border: var(--jp-border-color1, var(--vscode-panel-border, gray));
  --tooltip-arrow-color: var(--tooltip-color);
}`;
const SPARE_GLYPHS = ["decimated_glyph", "selection_glyph", "nonselection_glyph", "hover_glyph", "muted_glyph"];

// ---- once a page

// Every widget has a module of its own. `styles`: since when values of CSS variables are kept. `nrWarm`: see warmUp. `sheets`:
// style sheets by their text.
const page = (window[Symbol.for("percpu_lab.paint")] ??=
  {tuned: new WeakSet(), styles: null, isKeeping: false, nrWarm: 0, sheets: new Map()});

function withStylesKept(paint) {
  page.styles ??= {};
  page.isKeeping = true;
  try {
    paint();
  } finally {
    page.isKeeping = false;
  }
}

function forgetStyles() {
  page.styles = null;
}

function tune(Bokeh) {
  if (page.tuned.has(Bokeh)) return;
  page.tuned.add(Bokeh);
  const graphics = Bokeh.require("core/graphics");
  const sheet = Bokeh.require("core/dom").InlineStyleSheet.prototype;
  const visual = Bokeh.require("core/visuals/visual").VisualProperties.prototype;
  const hatch = Bokeh.require("core/visuals/hatch").HatchVector.prototype;
  const formatter = Bokeh.require("models/formatters/customjs_tick_formatter").CustomJSTickFormatter.prototype;
  const pixels = Bokeh.require("models/glyphs/image_base").ImageBaseView.prototype;
  const image = Bokeh.require("models/glyphs/image").ImageView.prototype;
  graphics.text_width = remembered(graphics.text_width);
  paintPlainLabels(Bokeh);
  chooseAllRowsAtOnce(Bokeh);
  adoptStyleSheets(Bokeh);
  paintThickSteps(Bokeh);
  const {_update} = sheet, {_get_css_value} = visual, {_make_func} = formatter;
  const {update} = hatch, {_flat_img_to_buf8} = image;
  // A style sheet that is written anew makes the browser match all of the page's rules again.
  sheet._update = function (css) {
    if (this.el.textContent === css) return;
    _update.call(this, css);
    if (this.labView) adopt(this.labView);
  };
  visual._get_css_value = function (name) {
    if (!page.isKeeping) return _get_css_value.call(this, name);
    if (this.labStyles?.since !== page.styles) this.labStyles = {since: page.styles, values: new Map()};
    const {values} = this.labStyles;
    if (!values.has(name)) values.set(name, _get_css_value.call(this, name));
    return values.get(name);
  };
  // The function is what it was as long as code and names are, and a new one would have to be compiled.
  formatter._make_func = function () {
    const key = `${this.names}\n${this.code}`;
    if (this.labFunc?.key !== key) this.labFunc = {key, call: _make_func.call(this)};
    return this.labFunc.call;
  };
  // A pattern is a canvas, which is drawn anew for every frame, though its look stays.
  hatch.update = function () {
    const parts = [this.hatch_color, this.hatch_alpha, this.hatch_scale, this.hatch_pattern, this.hatch_weight];
    const look = parts.every((part) => part.is_Scalar()) ? parts.map((part) => part.value).join() : null;
    if (look === null || look !== this.labLook) update.call(this);
    this.labLook = look;
  };
  // All pixels are new: there is no need to read the old ones.
  pixels._set_image_data_from_buffer = function (i, bytes) {
    const canvas = this._get_or_create_canvas(i);
    const picture = new ImageData(bytes, this.image_width[i], this.image_height[i]);
    canvas.getContext("2d", {willReadFrequently: true}).putImageData(picture, 0, 0);
    this.image_data[i] = canvas;
  };
  // Codes of one byte have 256 colours in all, which are looked up once.
  image._flat_img_to_buf8 = function (codes) {
    const {color_mapper} = this.model, {low, high, palette} = color_mapper;
    if (!(codes instanceof Uint8Array) || low === null || high === null) return _flat_img_to_buf8.call(this, codes);
    const known = this.labColours;
    if (known?.palette !== palette || known.low !== low || known.high !== high) {
      const all = color_mapper.rgba_mapper.v_compute(Uint8Array.from({length: 256}, (_, code) => code));
      this.labColours = {palette, low, high, of: new Uint32Array(all.buffer)};
    }
    // The pixels of the last picture are on its canvas: their memory serves again, else there is much to be cleaned up.
    if (this.labFound?.length !== codes.length) this.labFound = new Uint32Array(codes.length);
    lookUp(this.labColours.of, codes, this.labFound);
    return new Uint8ClampedArray(this.labFound.buffer);
  };
}

// A board has 900 style sheets, hardly any of which differ or have a text. As elements of the page each would be styled
// anew whenever the cell gets or loses the focus, which is when the next one begins to run.
function adoptStyleSheets(Bokeh) {
  const {InlineStyleSheet, GlobalInlineStyleSheet} = Bokeh.require("core/dom");
  const view = Bokeh.require("core/dom_view").DOMComponentView.prototype, {empty} = view;
  const isOurs = (sheet) => sheet instanceof InlineStyleSheet && !(sheet instanceof GlobalInlineStyleSheet);
  view._apply_stylesheets = function (sheets) {
    const all = sheets.map((sheet) => typeof sheet === "string" ? new InlineStyleSheet(sheet) : sheet);
    this._applied_stylesheets.push(...all);
    for (const sheet of all) {
      if (isOurs(sheet)) sheet.labView = this;
      else sheet.install(this.shadow_el);
    }
    adopt(this);
  };
  view.empty = function () {
    empty.call(this);
    adopt(this);
  };
}

function adopt(view) {
  const texts = view._applied_stylesheets.filter(({labView}) => labView === view).map(({css}) => css);
  view.shadow_el.adoptedStyleSheets = texts.filter((css) => css !== "").map(sheetOf);
}

// Sheets are never changed, so that all of the same text are one.
function sheetOf(css) {
  if (page.sheets.size >= MOST_SHEETS) page.sheets.clear(); // places of things are texts, too
  if (!page.sheets.has(css)) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(css);
    page.sheets.set(css, sheet);
  }
  return page.sheets.get(css);
}

// A browser strokes a long path that is thicker than a pixel in twenty times the time of a thin one. Steps go across and
// up only, so a few thin ones beside each other, from the upper left to the lower right, look like a thick one.
function paintThickSteps(Bokeh) {
  const steps = Bokeh.require("models/glyphs/step").StepView.prototype, {_paint_consecutive} = steps;
  steps._paint_consecutive = function (context, indices, data) {
    context.save();
    this.visuals.line.set_value(context);
    const {lineWidth, strokeStyle, globalAlpha} = context;
    const isOpaque = globalAlpha === 1 && OPAQUE.test(strokeStyle), thin = 1 / devicePixelRatio;
    if (isOpaque && lineWidth > thin) strokeBeside(context, pathOf(this._build_step_path(indices, data)), lineWidth, thin);
    else _paint_consecutive.call(this, context, indices, data);
    context.restore();
  };
}

function strokeBeside(context, path, width, thin) {
  const nr = Math.ceil(width / thin), gap = (width - thin) / (nr - 1);
  context.lineWidth = thin;
  context.translate((thin - width) / 2, (thin - width) / 2);
  for (let k = 0; k < nr; k++) {
    context.stroke(path);
    context.translate(gap, gap);
  }
}

function pathOf({xs, ys}) {
  const path = new Path2D();
  let isOpen = false; // a point that is nowhere ends a piece
  for (let k = 0; k < xs.length; k++) {
    const isPlace = isFinite(xs[k] + ys[k]);
    if (isPlace && isOpen) path.lineTo(xs[k], ys[k]);
    else if (isPlace) path.moveTo(xs[k], ys[k]);
    isOpen = isPlace;
  }
  return path;
}

// Mostly all rows are meant: then there is nothing to be found out bit by bit.
function chooseAllRowsAtOnce(Bokeh) {
  const bits = Bokeh.require("core/types").Indices.prototype;
  const {_get_count, ones, select} = bits;
  const isFull = ({_array}) => _array.every((word) => word === ALL_BITS);
  const numbers = []; // from 0
  bits._get_count = function () {
    return isFull(this) ? this.size : _get_count.call(this);
  };
  bits.ones = function () {
    if (!isFull(this)) return ones.call(this);
    while (numbers.length < this.size) numbers.push(numbers.length);
    return numbers.slice(0, this.size);
  };
  bits.select = function (column) {
    return isFull(this) && this.size <= column.length ? column.slice(0, this.size) : select.call(this, column);
  };
}

function lookUp(colours, codes, found) {
  for (let k = 0; k < codes.length; k++) found[k] = colours[codes[k]];
}

// The width of a text in a font; one that is still being loaded may change.
function remembered(measure) {
  const known = new Map();
  return (text, font) => {
    const key = `${font}\n${text}`;
    const width = known.get(key) ?? measure(text, font);
    if (known.size >= MOST_WIDTHS) known.clear();
    if (document.fonts.status === "loaded") known.set(key, width);
    return width;
  };
}

// Labels of an axis that are not turned: what Bokeh finds out for each of them, twice, is the same for all but a width.
function paintPlainLabels(Bokeh) {
  const graphics = Bokeh.require("core/graphics");
  const {font_metrics} = Bokeh.require("core/util/text");
  const axis = Bokeh.require("models/axes/axis").AxisView.prototype;
  const {_draw_oriented_labels} = axis;
  const isPlain = (label) => label instanceof graphics.TextBox && !label.text.includes("\n");
  axis._draw_oriented_labels = function (context, labels, coords, orient, standoff, visuals) {
    const {items} = labels, {panel, model} = this;
    const isTurned = Boolean(panel.get_label_angle_heuristic(orient));
    const isChosen = model.major_label_policy.type !== "AllLabels";
    const isOutlined = model.major_label_text_outline_color !== null;
    if (isTurned || isChosen || isOutlined || items.length === 0 || !items.every(isPlain)) {
      _draw_oriented_labels.call(this, context, labels, coords, orient, standoff, visuals);
      return;
    }
    if (!visuals.doit) return;
    const tallest = items.find((label) => label.infer_text_height() !== "cap") ?? items[0];
    tallest.visuals = visuals.values();
    const {font, color} = tallest, line = tallest._text_line(font_metrics(font));
    const widths = items.map(({text}) => graphics.text_width(text, font));
    context.save();
    Object.assign(context, {font, fillStyle: color, textAlign: "left", textBaseline: "alphabetic"});
    const [lefts, tops] = placesOfLabels(this, coords, orient, standoff, widths, line);
    items.forEach(({text}, i) => context.fillText(text, lefts[i], tops[i] + line.ascent));
    context.restore();
  };
}

function placesOfLabels(axis, coords, orient, standoff, widths, {ascent, height}) {
  const {vertical_align, align} = axis.panel.get_label_text_heuristics(orient);
  const [nx, ny] = axis.normals, [sxs, sys] = axis.scoords(coords), {bbox} = axis.canvas;
  const share = {left: 0, center: 0.5, right: 1}[align];
  const above = {top: 0, center: 0.5 * height, bottom: height, baseline: ascent}[vertical_align];
  const lefts = widths.map((width, i) => sxs[i] + nx * standoff - share * width);
  const tops = widths.map((_, i) => sys[i] + ny * standoff - above);
  const [places, lengths, end] = axis.dimension === 0
    ? [lefts, widths, bbox.width] : [tops, widths.map(() => height), bbox.height];
  for (const i of [0, widths.length - 1]) places[i] = Math.max(Math.min(places[i], end - lengths[i]), 0); // of the ends
  return [lefts, tops];
}

// ---- once a plot

function paintLess(Bokeh, plot, isMeasuring) {
  const {_invalidate_layout_if_needed} = plot;
  // Texts of axes change at every frame: they are measured, and the page laid out for them, when frames pause.
  plot._invalidate_layout_if_needed = () => {
    if (plot._needs_layout || isMeasuring()) _invalidate_layout_if_needed.call(plot);
  };
  const {primary, overlays} = plot.canvas_view;
  for (const {ctx} of [primary, overlays]) strokeSeenTexts(ctx);
  beginAnew(primary);
  hideWhileEmpty(plot, overlays.el);
  putBehindCanvases(plot.canvas_view);
  for (const tool of plot.tool_views.values()) {
    for (const tooltip of tool.ttmodels?.values() ?? []) tooltip.setv({stylesheets: [TOOLTIP_CSS]}, {sync: false});
  }
  // Bokeh asks all glyphs for their bounds, also where no range follows them.
  const isFollowing = [...plot.model.references()].some(({type}) => type === "DataRange1d");
  if (!isFollowing) Object.defineProperty(plot, "auto_ranged_renderers", {value: []});
  for (const view of plot.renderer_views.values()) {
    if (view.model.type === "GlyphRenderer") prepareOnDemand(Bokeh, view);
    if (view.model.type === "Legend") showAsPictures(plot, view, isMeasuring);
    if ("tick_coords" in view) keepRoomOfTexts(view, isMeasuring);
  }
}

// Bokeh draws the outline of every text, also of those that have none.
function strokeSeenTexts(context) {
  const {strokeText} = context;
  context.strokeText = (...text) => { if (context.strokeStyle !== CLEAR) strokeText.apply(context, text); };
}

// Bokeh outlines a plot without beginning a path: where the last paint ended with one, that would be drawn again.
function beginAnew(layer) {
  const {prepare} = layer;
  layer.prepare = () => {
    const context = prepare.call(layer);
    context.beginPath();
    return context;
  };
}

// The page is composed of its canvases, also of those that nothing is drawn on.
function hideWhileEmpty(plot, canvas) {
  const {_paint_overlays} = plot;
  const hide = () => {
    const isEmpty = plot.computed_renderer_views.every(({model}) => model.level !== "overlay" || !model.visible);
    canvas.style.display = isEmpty ? "none" : "";
  };
  plot._paint_overlays = (context) => {
    _paint_overlays.call(plot, context);
    hide();
  };
  hide(); // a plot that is out of sight may not be painted for long
}

// What stands above a canvas on the page is a layer of its own, as large as all of that is together, which is drawn and
// composed anew whenever anything is. So legends, tools and what hears the mouse stand behind: canvases are transparent.
function putBehindCanvases({el, shadow_el, overlays_el, events_el}) {
  el.style.isolation = "isolate";
  for (const layer of shadow_el.querySelectorAll(".bk-layer")) layer.style.pointerEvents = "none";
  Object.assign(events_el.style, {zIndex: "-1", pointerEvents: "auto"});
  if (overlays_el.childElementCount === 0) overlays_el.style.display = "none";
}

function prepareOnDemand(Bokeh, view) {
  showAllRows(view.cds_view);
  view.update_position = () => {}; // of an empty element on the page, one a glyph, which would follow its data
  const {_paint} = view, isUnseen = view.model.glyph.tags.includes("unseen");
  view._paint = (context) => {
    if (isUnseen || view.glyph.data_size === 0) view.map_data(); // what is pointed at may be unseen
    else _paint.call(view, context);
  };
  for (const name of SPARE_GLYPHS) {
    if (view[name]) prepareSpare(Bokeh, view, view[name]);
  }
  const {glyph} = view, {index_data, mask_data} = glyph;
  const {Indices} = Bokeh.require("core/types");
  glyph.index_data = () => { glyph._index = null; };
  Object.defineProperty(glyph, "index", {get() {
    if (glyph._index === null) index_data.call(glyph);
    return glyph._index;
  }});
  glyph.mask_data = () => {
    const nrRows = glyph.data_size;
    return nrRows <= FEW_ROWS ? Indices.all_set(nrRows) : mask_data.call(glyph);
  };
}

// Bokeh filters the rows of a frame twice, and takes them once more if their number changes, also where all are shown.
function showAllRows(view) {
  const {compute_indices} = view, {model} = view;
  view.compute_indices = () => {
    const nrRows = view.parent.data_source.get_value().get_length() ?? 1;
    if (model.filter.type !== "AllIndices") compute_indices.call(view);
    else if (model.indices.size !== nrRows) {
      setQuietly(model, {indices: model.indices.constructor.all_set(nrRows)}); // the data's own change follows
      mapAllRows(model, nrRows);
    }
  };
}

function mapAllRows(model, nrRows) {
  if (model._indices_map_to_subset) { // Bokeh 3.9
    model._indices_map_to_subset();
    return;
  }
  const rows = model.indices.ones(), map = new model.indices_map.constructor(nrRows);
  map.set_subset(rows);
  setQuietly(model, {indices_array: rows, indices_map: map});
}

function setQuietly(model, attrs) {
  model.setv(attrs, {silent: true});
}

// A glyph of a renderer for what is selected, muted, and so on: mostly nothing.
function prepareSpare(Bokeh, view, spare) {
  const {_set_lazy_data, after_lazy_visuals} = Bokeh.require("models/glyphs/glyph").GlyphView.prototype;
  if (spare._set_lazy_data !== _set_lazy_data || spare.after_lazy_visuals !== after_lazy_visuals) return;
  const {set_data, set_visuals, after_visuals, map_data, paint} = spare;
  let isStale = false;
  spare.set_data = async () => { isStale = true; };
  spare.set_visuals = () => { isStale = true; };
  spare.after_visuals = () => {};
  spare.map_data = () => {};
  spare.paint = (...args) => {
    if (isStale) {
      isStale = false;
      set_data.call(spare, view.model.data_source, view.all_indices);
      set_visuals.call(spare, view.model.data_source, view.all_indices);
      after_visuals.call(spare);
    }
    map_data.call(spare);
    paint.apply(spare, args);
  };
}

// Every entry of a legend is a canvas of its own, which the page would be composed of. Entries are made anew, and empty,
// whenever one is shown or hidden.
function showAsPictures(plot, legend, isMeasuring) {
  const {paint, _render_items} = legend;
  const show = () => {
    for (const {el, glyph: {canvas}} of legend.entries) {
      if (canvas.isConnected) {
        const picture = document.createElement("img");
        picture.alt = "";
        picture.className = canvas.className;
        canvas.replaceWith(picture);
      }
      const picture = el.querySelector("img"), source = canvas.toDataURL();
      if (picture.src !== source) picture.src = source;
    }
  };
  legend.paint = (context) => {
    if (!isMeasuring() && !plot.is_forcing_paint) return;
    paint.call(legend, context);
    show();
  };
  const draw = () => {
    legend._paint_glyphs();
    show();
  };
  legend._render_items = () => {
    _render_items.call(legend);
    draw();
  };
  draw(); // a plot that is out of sight may not be painted for long
}

function keepRoomOfTexts(axis, isMeasuring) {
  let kept = null;
  Object.defineProperty(axis, "extents", {get() {
    if (isMeasuring() || kept === null) kept = Reflect.get(Object.getPrototypeOf(axis), "extents", axis);
    return kept;
  }});
}
