// The stage of the image viewer.  Wheel, ↑ ↓: leaf through the series (of one image alone, the
// page scrolls).  Ctrl + wheel, pinch, + - 0: zoom.  Drag: move.  Double click: the whole image.
export default function ({ data, parentElement, setTriggerValue }) {
  const stage = parentElement.querySelector('.stage');
  const img = stage.querySelector('img');
  const label = stage.querySelector('.bar span');
  const s = stage._view || (stage._view = { zoom: 1, x: 0, y: 0, image: '', turned: 0 });
  if (s.image !== data.image) {
    Object.assign(s, { zoom: 1, x: 0, y: 0, image: data.image, asked: null, want: data.at });
  }
  stage.setAttribute('aria-label', data.alt);
  stage.classList.toggle('stack', data.count > 1);
  stage.querySelector('.place').textContent = data.place;
  stage.querySelector('.window').textContent = data.window;
  stage.querySelector('.problem').textContent = data.problem;
  img.alt = data.alt;
  img.hidden = !data.src;
  const place = () => {
    const fit = Math.min(stage.clientWidth / data.width, stage.clientHeight / data.height);
    const w = data.width * fit * s.zoom, h = data.height * fit * s.zoom;
    const mx = Math.max(0, (w - stage.clientWidth) / 2);
    const my = Math.max(0, (h - stage.clientHeight) / 2);
    s.x = Math.min(mx, Math.max(-mx, s.x));
    s.y = Math.min(my, Math.max(-my, s.y));
    img.style.width = w + 'px';
    img.style.height = h + 'px';
    img.style.transform = `translate(${-w / 2 + s.x}px, ${-h / 2 + s.y}px)`;
    label.textContent = Math.round(100 * s.zoom) + ' %';
    stage.style.touchAction = data.count > 1 || s.zoom > 1 ? 'none' : 'pan-y';
  };
  // px, py: what stays where it is, from the middle of the stage
  const zoom = (f, px = 0, py = 0) => {
    const before = s.zoom;
    s.zoom = Math.min(12, Math.max(1, s.zoom * f));
    s.x = px + (s.x - px) * (s.zoom / before);
    s.y = py + (s.y - py) * (s.zoom / before);
    place();
  };
  const whole = () => { Object.assign(s, { zoom: 1, x: 0, y: 0 }); place(); };
  img.onload = place;
  if (data.src) img.src = data.src; else img.removeAttribute('src');

  // Leafing: one request at a time, so that a fast wheel ends where it stopped and not later.
  const ask = () => {
    if (s.want === data.at || (s.asked !== null && Date.now() - s.since < 4000)) return;
    s.asked = s.want;
    s.since = Date.now();
    setTriggerValue('leaf', s.want);
  };
  if (s.asked === null || s.asked === data.at) {
    if (s.asked === null) s.want = data.at; // moved by the slider
    s.asked = null;
    ask();
  }
  const leaf = (n) => { s.want = Math.min(data.count - 1, Math.max(0, s.want + n)); ask(); };

  stage.onwheel = (e) => {
    const px = e.deltaY * (e.deltaMode === 1 ? 33 : e.deltaMode === 2 ? 400 : 1);
    if (e.ctrlKey || e.metaKey) {
      e.preventDefault();
      const box = stage.getBoundingClientRect();
      const at = [e.clientX - box.x - box.width / 2, e.clientY - box.y - box.height / 2];
      zoom(Math.exp(-Math.max(-120, Math.min(120, px)) / 500), ...at);
    } else if (data.count > 1) {
      e.preventDefault();
      if (Date.now() - (s.last || 0) > 250) s.turned = 0;
      s.last = Date.now();
      s.turned += px;
      const steps = Math.trunc(s.turned / 80);
      s.turned -= 80 * steps;
      if (steps) leaf(steps);
    }
  };
  stage.ondblclick = (e) => { if (!e.target.closest('.bar')) whole(); };
  stage.onkeydown = (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === '+' || e.key === '=') zoom(1.4);
    else if (e.key === '-') zoom(1 / 1.4);
    else if (e.key === '0') whole();
    else if (e.key === 'ArrowDown' && data.count > 1) leaf(1);
    else if (e.key === 'ArrowUp' && data.count > 1) leaf(-1);
    else return;
    e.preventDefault();
    e.stopPropagation();
  };
  let from = null;
  stage.onpointerdown = (e) => {
    if (e.target.closest('.bar')) return;
    from = [e.clientX - s.x, e.clientY - s.y];
    stage.setPointerCapture(e.pointerId);
  };
  stage.onpointermove = (e) => {
    if (!from) return;
    s.x = e.clientX - from[0];
    s.y = e.clientY - from[1];
    place();
  };
  stage.onpointerup = stage.onpointercancel = () => { from = null; };
  for (const b of stage.querySelectorAll('button')) {
    b.onclick = () => (b.dataset.z === 'fit' ? whole() : zoom(b.dataset.z === 'in' ? 1.4 : 1 / 1.4));
  }
  place();
  const watch = new ResizeObserver(place);
  watch.observe(stage);
  return () => watch.disconnect();
}
