// Small things that both charts use: elements, numbers as text, the look of axes.

const GRID = '#ebebeb', INK = '#1a1a1a', AXIS = '#4d4d4d', PAPER = '#ffffff';
const COARSE = matchMedia('(pointer: coarse)').matches; // a finger scrolls the page, it does not draw zoom boxes
const CONFIG = {
  displaylogo: false, responsive: true, modeBarButtons: [['toImage', 'resetScale2d']],
  displayModeBar: COARSE ? false : 'hover',
};

/** A colour as the page has it, which is another one in the dark. */
function tone(colour) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--c${colour.slice(1)}`).trim() || colour;
}

function font() {
  return {family: getComputedStyle(document.body).fontFamily, size: 13, color: tone(INK)};
}

/** The mark of a curve, of the page's own making. */
function drawn(svg) {
  return document.createRange().createContextualFragment(svg);
}

/** An element. Texts become text nodes, so that no name of a user is read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

/** A labelled drop-down; `options` are [value, text] pairs. */
function choice(label, options, value, onchange) {
  const list = element('select', {'aria-label': label, onchange: () => onchange(list.value)}, ...options.map(
    ([key, text]) => element('option', {value: key, selected: key === value}, text)));
  return element('label', {class: 'choice'}, element('span', {}, label), list);
}

/** Escapes a text: Plotly reads some HTML in its texts, and a name must not be read so. */
function plain(text) {
  return String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
}

/** A value of a metric with its unit; metrics that tombola does not know have no decimals of their own. */
function written(metric, value) {
  const scaled = metric.scale * value;
  const text = metric.decimals === null ? String(Number(scaled.toPrecision(4))) : scaled.toFixed(metric.decimals);
  return text.replace('-', '\u2212').replace('e\u2212', 'e-') + metric.unit;
}

function left(density) {
  return Number((100 * density).toPrecision(3)) + '%';
}

/** The look of a label at the mouse or the finger. */
function hover(colour) {
  return {bgcolor: tone(PAPER), bordercolor: tone(colour), align: 'left', font: {...font(), size: 12.5}};
}

/** An axis of weights left in percent, from dense on the left to sparse on the right. */
function densityAxis(percents, log) {
  const most = Math.max(...percents), least = Math.min(...percents);
  const axis = {...plainAxis('weights left (% of prunable)'), fixedrange: COARSE};
  if (!log) return {...axis, range: [most + 0.04 * (most - least || 1), least - 0.04 * (most - least || 1)]};
  const low = Math.min(least / 1.18, 0.5 * most), ticks = [];
  for (let power = 2; power > -6; power--) ticks.push(...[5, 2, 1].map(step => step * 10 ** power));
  let shown = ticks.filter(tick => tick >= low && tick <= Math.min(100, 1.18 * most));
  if (shown.length > 8) shown = shown.filter(tick => Number.isInteger(Math.round(1e9 * Math.log10(tick)) / 1e9));
  return {
    ...axis, type: 'log', range: [Math.log10(1.18 * most), Math.log10(low)],
    tickvals: shown, ticktext: shown.map(tick => String(Number(tick.toPrecision(3)))),
  };
}

function plainAxis(title) {
  return {
    title: {text: plain(title), standoff: 10, font: {size: 13}}, gridcolor: tone(GRID), linecolor: tone(AXIS), zeroline: false,
    ticks: 'outside', tickcolor: tone(AXIS), ticklen: 4, automargin: true,
  };
}
