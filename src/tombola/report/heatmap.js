// The heat map of a panel: the density of every layer at every level, for the curve that is chosen.

/** A choice of the curve and its map, inside `place`. Returns {draw}. */
function layersExplorer(place, panel) {
  const {names, curves} = panel.layers;
  let chosen = curves[0];
  const chart = element('div', {class: 'chart', role: 'group'});
  const options = curves.map((curve, i) => [String(i), panel.curves[curve.curve].name]);
  place.append(
    element('div', {class: 'controls'}, choice('curve', options, '0', value => { chosen = curves[Number(value)]; draw(); })), chart);
  const least = Math.min(0.999, ...curves.flatMap(curve => curve.mean.flat().filter(value => value > 0)));
  const row = names.length > 20 ? 15 : 26;

  function draw() {
    const name = panel.curves[chosen.curve].name, percent = value => Number((100 * value).toPrecision(3)) + '%';
    const cell = (layer, level) => `<b>${plain(names[layer])}</b> in ${plain(name)}<br>`
      + `${percent(chosen.mean[level][layer])} left in the layer, mean over seeds<br>`
      + `${percent(chosen.low[level][layer])} to ${percent(chosen.high[level][layer])} over seeds<br>`
      + `${percent(chosen.left[level])} left overall, level ${chosen.level[level]}`;
    const byLayer = value => names.map((_, layer) => chosen.level.map((_, level) => value(layer, level)));
    const ticks = [], across = plainAxis('weights left overall (%)');
    for (let power = Math.floor(Math.log10(100 * least)); power <= 2; power++) {
      ticks.push(...(least > 1e-3 ? [1, 2, 5] : [1]).map(step => step * 10 ** power));
    }
    const shown = ticks.filter(tick => tick >= 99 * least && tick <= 100);
    chart.setAttribute('aria-label', `Heat map: density of ${names.length} layers at ${chosen.level.length} levels of ${name}`);
    return Plotly.react(chart, [{
      type: 'heatmap', x: chosen.level.map((_, i) => i), y: names.map((_, i) => i), xgap: 1, ygap: 1, hoverinfo: 'text',
      z: byLayer((layer, level) => chosen.mean[level][layer] > 0 ? Math.log10(100 * chosen.mean[level][layer]) : null),
      text: byLayer(cell), hoverongaps: true, colorscale: 'Cividis', zmin: Math.log10(100 * least), zmax: 2,
      hoverlabel: hover(AXIS),
      colorbar: {
        orientation: 'h', thickness: 10, y: 1, yanchor: 'bottom', ypad: 6, outlinewidth: 0, tickvals: shown.map(Math.log10),
        ticktext: shown.map(tick => String(Number(tick.toPrecision(3)))), title: {text: 'weights left in the layer (%)', side: 'top', font: {size: 13}},
      },
    }], {
      font: font(), paper_bgcolor: tone(PAPER), plot_bgcolor: tone(PAPER), height: 175 + row * names.length,
      margin: {l: 40, r: 8, t: 90, b: 45}, dragmode: false,
      xaxis: {
        ...across, title: {...across.title, standoff: 22}, ticks: '', fixedrange: true, showgrid: false, linecolor: tone(PAPER),
        ...someTicks(chosen.left.map(value => String(Number((100 * value).toPrecision(3))))),
      },
      yaxis: {
        autorange: 'reversed', fixedrange: true, showgrid: false, automargin: true, zeroline: false,
        tickvals: names.map((_, i) => i), ticktext: names.map(plain), tickfont: {size: names.length > 20 ? 10 : 12},
      },
    }, {...CONFIG, toImageButtonOptions: {format: 'svg', filename: 'layers'}});
  }
  return {draw};
}

/** Ticks at 0, 1, ... with these texts; as many as there is room for. */
function someTicks(texts) {
  const step = Math.ceil(texts.length / (innerWidth < 640 ? 4 : 8)), shown = texts.map((_, i) => i).filter(i => i % step === 0);
  return {tickvals: shown, ticktext: shown.map(i => texts[i])};
}
