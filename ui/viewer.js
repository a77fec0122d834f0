// Zoom and pan of the image viewer: wheel, drag, double click, buttons, and + - 0 when focused.
export default function ({ data, parentElement }) {
  const stage = parentElement.querySelector('.stage');
  const img = stage.querySelector('img');
  const label = stage.querySelector('.bar span');
  const s = stage._view || (stage._view = { zoom: 1, x: 0, y: 0, image: '' });
  if (s.image !== data.image) Object.assign(s, { zoom: 1, x: 0, y: 0, image: data.image });
  stage.setAttribute('aria-label', data.alt);
  img.alt = data.alt;
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
  };
  const zoom = (f) => { s.zoom = Math.min(12, Math.max(1, s.zoom * f)); place(); };
  const whole = () => { Object.assign(s, { zoom: 1, x: 0, y: 0 }); place(); };
  img.onload = place;
  img.src = data.src;
  stage.onwheel = (e) => { e.preventDefault(); zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15); };
  stage.ondblclick = whole;
  stage.onkeydown = (e) => {
    if (e.key === '+' || e.key === '=') zoom(1.4);
    else if (e.key === '-') zoom(1 / 1.4);
    else if (e.key === '0') whole();
    else return;
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
  stage.onpointerup = () => { from = null; };
  for (const b of stage.querySelectorAll('button')) {
    b.onclick = () => (b.dataset.z === 'fit' ? whole() : zoom(b.dataset.z === 'in' ? 1.4 : 1 / 1.4));
  }
  const watch = new ResizeObserver(place);
  watch.observe(stage);
  return () => watch.disconnect();
}
