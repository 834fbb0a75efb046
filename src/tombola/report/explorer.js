// The interactive chart of a panel: any metric over weights left, any choice of curves, hover shows the seeds.

const SEEDS_NAMED = 12; // in a hover text; more would cover the chart

/** Controls and chart of one panel, inside `place`. Returns {draw, show}. */
function curvesExplorer(place, panel) {
  const state = {metric: panel.metrics[0], logX: true, logY: false, spread: 'range', hidden: new Set()};
  const chart = element('div', {class: 'chart', role: 'group'});
  const change = (name, value) => { state[name] = value; draw(); };
  const metrics = choice('quantity', panel.metrics.map(metric => [metric.column, metric.name]), state.metric.column,
    value => change('metric', panel.metrics.find(metric => metric.column === value)));
  const scale = [['log', 'log'], ['linear', 'linear']];
  const boxes = panel.curves.map((curve, i) => element('input', {type: 'checkbox', checked: true, onchange: event => {
    event.target.checked ? state.hidden.delete(i) : state.hidden.add(i);
    draw();
  }}));
  const showing = wanted => () => {
    state.hidden = new Set(panel.curves.flatMap((curve, i) => wanted(curve) ? [] : [i]));
    boxes.forEach((box, i) => { box.checked = !state.hidden.has(i); });
    draw();
  };
  const buttons = [['all', () => true], ['none', () => false]];
  if (panel.curves.some(curve => curve.control) && !panel.curves.every(curve => curve.control)) {
    buttons.push(['without controls', curve => !curve.control]);
  }
  place.append(
    element('div', {class: 'controls'},
      metrics,
      choice('weights left', scale, 'log', value => change('logX', value === 'log')),
      choice('values', scale, 'linear', value => change('logY', value === 'log')),
      choice('over seeds', [['range', 'mean and range'], ['seeds', 'mean and each seed'], ['mean', 'mean']], 'range',
        value => change('spread', value))),
    chart,
    element('fieldset', {class: 'chips'}, element('legend', {}, 'Curves'),
      ...panel.curves.map((curve, i) => element('label', {class: 'chip'}, boxes[i], drawn(curve.swatch), curve.name)),
      element('span', {class: 'all'},
        ...buttons.map(([text, wanted]) => element('button', {type: 'button', onclick: showing(wanted)}, text)))));

  function draw() {
    const metric = state.metric, points = pointsOf(panel, metric);
    const shown = points.filter(point => !state.hidden.has(point.curve));
    const traces = panel.curves.flatMap((curve, i) => {
      const own = shown.filter(point => point.curve === i);
      return own.length ? [tracesOf(curve, own, metric, state.spread)] : [];
    }).reverse().flat(); // the first curve, the reference, lies on top
    const percents = points.map(point => point.x);
    const values = plainAxis(metric.axis + (state.logY ? ', log scale' : ''));
    chart.setAttribute('aria-label', `Chart: ${metric.name} over weights left, ${panel.curves.length - state.hidden.size} curves`);
    return Plotly.react(chart, [...nullTraces(panel, metric, shown), ...traces], {
      font: font(), paper_bgcolor: tone(PAPER), plot_bgcolor: tone(PAPER), showlegend: false, hovermode: 'closest', hoverdistance: 30,
      height: innerWidth < 640 ? 300 : 420, margin: {l: 50, r: 8, t: 28, b: 45}, dragmode: COARSE ? false : 'zoom',
      shapes: metric.column === 'accuracy' ? chanceLine(panel.chance) : [], xaxis: densityAxis(percents, state.logX),
      yaxis: {...values, type: state.logY ? 'log' : 'linear', fixedrange: COARSE, nticks: 8},
    }, {...CONFIG, toImageButtonOptions: {format: 'svg', filename: metric.column}});
  }

  /** Shows that column, as if it had been chosen. */
  function show(column) {
    const list = metrics.querySelector('select');
    list.value = column;
    change('metric', panel.metrics.find(metric => metric.column === column));
    list.focus({preventScroll: true});
  }
  return {draw, show};
}

/** The dotted line of guessing, where the axis reaches so far. */
function chanceLine(chance) {
  if (chance === null) return [];
  const line = {color: tone(AXIS), width: 1, dash: 'dot'}, words = `chance ${Number(chance.toPrecision(3))}%`;
  return [{type: 'line', xref: 'paper', x0: 0, x1: 1, y0: chance, y1: chance, line, label: {text: words, textposition: 'start', font: {size: 11}}}];
}

/** One point per curve and level, in that order: x in percent, mean, low and high in the metric's unit, seeds. */
function pointsOf(panel, metric) {
  const rows = panel.rows, points = [];
  rows.curve.forEach((curve, i) => {
    const value = rows[metric.column][i];
    if (value === null) return;
    const last = points[points.length - 1];
    const same = last && last.curve === curve && last.level === rows.level[i];
    const point = same ? last : {curve, level: rows.level[i], rows: [], densities: [], seeds: [], values: []};
    if (!same) points.push(point);
    point.rows.push(i);
    point.densities.push(rows.density[i]);
    point.seeds.push(rows.seed[i]);
    point.values.push(value);
  });
  // twelve digits: means of equal values are then equal, and not an axis of a last bit's width, which plotly cannot draw
  const mean = values => Number((values.reduce((sum, value) => sum + value, 0) / values.length).toPrecision(12));
  return points.map(point => ({
    ...point, density: mean(point.densities), x: 100 * mean(point.densities), mean: mean(point.values),
    low: Math.min(...point.values), high: Math.max(...point.values),
  }));
}

/** The band or the seeds, and the line of means, whose hover text has every seed. */
function tracesOf(curve, points, metric, spread) {
  const x = points.map(point => point.x), scaled = name => points.map(point => metric.scale * point[name]);
  const traces = [];
  if (spread === 'range' && points.some(point => point.values.length > 1)) {
    traces.push({
      x: [...x, ...x.slice().reverse()], y: [...scaled('high'), ...scaled('low').reverse()], mode: 'lines', line: {width: 0},
      fill: 'toself', fillcolor: tone(curve.colour) + '29', hoverinfo: 'skip',
    });
  }
  if (spread === 'seeds') {
    traces.push({
      x: points.flatMap(point => point.values.map(() => point.x)),
      y: points.flatMap(point => point.values.map(value => metric.scale * value)), mode: 'markers',
      marker: {color: tone(curve.colour), symbol: curve.symbol + '-open', size: 6, opacity: 0.6}, hoverlabel: hover(curve.colour),
      hovertext: points.flatMap(point => point.values.map((value, i) =>
        `<b>${plain(curve.name)}</b><br>seed ${point.seeds[i]}: ${written(metric, value)}<br>${where(point)}`)), hoverinfo: 'text',
    });
  }
  traces.push({
    x, y: scaled('mean'), mode: 'lines+markers', name: plain(curve.name), line: {color: tone(curve.colour), dash: curve.dash, width: 2},
    marker: {color: tone(curve.colour), symbol: curve.symbol, size: 8}, hoverlabel: hover(curve.colour), hoverinfo: 'text',
    hovertext: points.map(point => hoverText(curve, point, metric)),
  });
  return traces;
}

function where(point) {
  return `${left(point.density)} left, level ${point.level}`;
}

function hoverText(curve, point, metric) {
  const n = point.values.length;
  const seeds = point.values.slice(0, SEEDS_NAMED).map((value, i) => `seed ${point.seeds[i]}: ${written(metric, value)}`);
  if (n > SEEDS_NAMED) seeds.push(`and ${n - SEEDS_NAMED} more, ${written(metric, point.low)} to ${written(metric, point.high)} in all`);
  const mean = `${plain(metric.name)} <b>${written(metric, point.mean)}</b>` + (n > 1 ? `, mean of ${n} seeds` : ', one seed');
  return [`<b>${plain(curve.name)}</b>`, where(point), mean, ...seeds].join('<br>');
}

/** What perfect calibration would show: mean and 95% range over the curves that are shown, by level. */
function nullTraces(panel, metric, points) {
  const [mean, low, high] = ['', '_low', '_high'].map(end => panel.rows[`${metric.column}_null${end}`]);
  if (!low || !points.length) return [];
  const levels = [...new Set(points.map(point => point.level))].sort((a, b) => a - b);
  const average = (column, rows) => {
    const known = rows.map(row => column[row]).filter(value => value !== null);
    return known.length ? metric.scale * known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const at = levels.map(level => points.filter(point => point.level === level));
  const rows = at.map(found => found.flatMap(point => point.rows));
  const x = at.map(found => found.reduce((sum, point) => sum + point.x, 0) / found.length);
  const [means, lows, highs] = [mean, low, high].map(column => rows.map(own => average(column, own)));
  return [
    {x: [...x, ...x.slice().reverse()], y: [...highs, ...lows.reverse()], mode: 'lines', line: {width: 0}, fill: 'toself',
      fillcolor: tone('#d9d9d9'), hoverinfo: 'skip'},
    {x, y: means, mode: 'lines', line: {color: tone('#808080'), width: 1}, hoverinfo: 'skip'},
  ];
}
