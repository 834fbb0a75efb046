// Starts the interactive charts when the reader comes near them. Without this script, and in print, the figures are all there is.

/** Unpacks and runs plotly. Rejects in a browser that is too old to unpack it. */
async function loadPlotly() {
  const letters = atob(document.getElementById('plotly').textContent), packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  document.head.append(element('script', {}, await new Response(stream).text()));
}

function start() {
  const {panels} = JSON.parse(document.getElementById('data').textContent), numbers = Object.keys(panels);
  const place = document.querySelector('#explore .live'), charts = element('div');
  let number = numbers[0], explorers = null, loaded = null;

  /** Draws the charts of the panel, once plotly is there. */
  async function open(wanted) {
    loaded ??= loadPlotly();
    await loaded;
    if (explorers && wanted === number) return explorers;
    number = wanted;
    const panel = panels[number], parts = [['curves', curvesExplorer]];
    if (panel.layers) parts.push(['layers', layersExplorer]);
    const places = parts.map(([id]) => element('div', {id}));
    charts.replaceChildren(...places);
    explorers = parts.map(([, make], i) => make(places[i], panel));
    await Promise.all(explorers.map(each => each.draw()));
    document.documentElement.dataset.drawn = number;
    return explorers;
  }

  const net = numbers.length > 1 ? choice('records of', numbers.map(each => [each, panels[each].title]), number, open) : '';
  place.append(element('div', {class: 'controls'}, net), charts);
  for (const link of document.querySelectorAll('a.explore')) {
    link.addEventListener('click', async () => {
      if (net) net.querySelector('select').value = link.dataset.panel;
      (await open(link.dataset.panel))[0].show(link.dataset.metric);
    });
  }
  document.documentElement.classList.add('interactive');
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    open(number).catch(error => console.warn('the charts cannot be drawn:', error));
  }, {rootMargin: '600px'}).observe(place);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => explorers?.forEach(each => each.draw()));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start();
