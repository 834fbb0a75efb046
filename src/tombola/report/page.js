// Starts the interactive charts once the page is on the screen; each is drawn when the reader comes near it.
// Without this script, and in print, the same figures are there as pictures.

const EXPLORERS = {curves: curvesExplorer, layers: layersExplorer};

/** Unpacks and runs plotly. Rejects in a browser that is too old to unpack it. */
async function loadPlotly() {
  const letters = atob(document.getElementById('plotly').textContent), packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  document.head.append(element('script', {}, await new Response(stream).text()));
}

async function start() {
  const {panels} = JSON.parse(document.getElementById('data').textContent);
  await loadPlotly();
  const explorers = new Map();
  const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
    near.unobserve(entry.target);
    open(entry.target);
  }), {rootMargin: '600px'});

  /** Draws the figure's chart in the place of its picture, once. */
  function open(figure) {
    if (explorers.has(figure)) return explorers.get(figure);
    const place = figure.querySelector('.live'), live = element('span', {class: 'caption'});
    figure.querySelector('.caption').after(live);
    figure.classList.add('alive'); // before drawing: what is hidden has no width
    const made = EXPLORERS[place.dataset.explorer](place, panels[place.dataset.panel], live);
    explorers.set(figure, made);
    made.draw();
    return made;
  }

  const figures = [...document.querySelectorAll('figure.replaced')];
  for (const link of document.querySelectorAll('a.explore')) {
    link.addEventListener('click', () => open(document.getElementById(`curves-${link.dataset.panel}`)).show(link.dataset.metric));
  }
  document.documentElement.classList.add('interactive');
  if (figures.length) open(figures[0]);
  figures.forEach(figure => near.observe(figure));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

requestAnimationFrame(() => setTimeout(() => start().catch(error => console.warn('the charts stay pictures:', error)), 0));
