// Choose loads, policies and a metric, read values under the pointer, copy lines, open what links lead to.
// Without the script everything can be read.
(() => {
  "use strict";
  const form = document.getElementById("controls");
  const tip = document.getElementById("tip");
  const chosen = { load: "all", metric: "all", policies: new Set() };

  const show = (selector, wanted) =>
    document.querySelectorAll(selector).forEach((e) => e.toggleAttribute("hidden", !wanted(e.dataset)));
  const apply = () => {
    const one = (name) => document.querySelector(`input[name=${name}]:checked`)?.value ?? "all";
    chosen.load = one("load");
    chosen.metric = one("metric");
    chosen.policies = new Set(form ? new FormData(form).getAll("policy") : []);
    show("[data-load]", (data) => chosen.load === "all" || data.load === chosen.load);
    show("[data-policy]", (data) => data.policy.split(" ").some((policy) => chosen.policies.has(policy)));
    show("[data-metric]", (data) => chosen.metric === "all" || data.metric === chosen.metric);
  };

  const digits = (value) =>
    Math.abs(value) < 1000 ? String(Number(value.toPrecision(3))) : Math.round(value).toLocaleString("en");
  const FORMATS = {
    number: digits,
    percent: (value) => `${(100 * value).toFixed(1)}%`,
    duration: (value) => (Math.abs(value) >= 1 || value === 0 ? `${digits(value)} s` : `${digits(1000 * value)} ms`),
  };

  const parsed = new WeakMap();
  const hoverOf = (svg) => {
    if (!parsed.has(svg)) parsed.set(svg, JSON.parse(svg.dataset.hover));
    return parsed.get(svg);
  };
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll("svg .cursor").forEach((e) => e.remove());
  };
  const drawCursor = (svg, hover, at) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const [along, over] = hover.by === "x" ? ["x", "y"] : ["y", "x"];
    const ends = { [`${along}1`]: at, [`${along}2`]: at, [`${over}1`]: hover.across[0], [`${over}2`]: hover.across[1] };
    Object.entries(ends).forEach(([name, value]) => line.setAttribute(name, value));
    line.setAttribute("class", "cursor");
    svg.append(line);
  };
  const fill = (hover, at) => {
    const seconds = hover.first + (at - hover.start) * hover.seconds_per_pixel;
    const share = (at - hover.start) / (hover.rows[0].end - hover.start);
    const head = document.createElement("strong");
    head.textContent = hover.by === "x" ? `${digits(seconds)} s` : `p${Math.round(100 * share)}`;
    const rows = hover.rows
      .filter((row) => row.policy === null || chosen.policies.has(String(row.policy)))
      .map((row) => {
        const part = (at - hover.start) / (row.end - hover.start);
        const count = row.values.length;
        const value = row.values[hover.by === "x" ? Math.floor(part * count) : Math.round(part * (count - 1))];
        const item = document.createElement("div");
        const swatch = document.createElement("i");
        swatch.style.background = row.policy === null ? "transparent" : `var(--s${row.policy % 8})`;
        item.append(swatch, `${row.name} `, Object.assign(document.createElement("b"), {
          textContent: value === null || value === undefined ? "–" : FORMATS[hover.unit](value),
        }));
        return item;
      });
    tip.replaceChildren(head, ...rows);
  };
  const move = (event) => {
    const svg = event.target.closest?.("svg[data-hover]");
    hide();
    if (!svg) return;
    const hover = hoverOf(svg);
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const at = hover.by === "x" ? (event.clientX - box.left) * scale : (event.clientY - box.top) * scale;
    const ends = [hover.start, ...hover.rows.map((row) => row.end)];
    if (at < Math.min(...ends) || at > Math.max(...ends)) return;
    drawCursor(svg, hover, at);
    fill(hover, at);
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.transform = `translate(${Math.max(left, 8)}px, ${Math.max(top, 8)}px)`;
  };

  // Browsers open what a link leads to, but not again where the address already is that link's.
  const unfold = (anchor) => {
    const target = document.getElementById(anchor);
    const details = target?.closest("details");
    if (!details) return;
    details.open = true;
    target.scrollIntoView();
  };
  const followed = (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (link) unfold(link.hash.slice(1));
  };

  // Opened from a file the clipboard may be refused; then the text is copied as a selection.
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const copy = async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const done = await copied(source.textContent);
    button.focus();
    if (!done) getSelection().selectAllChildren(source);
    button.nextElementSibling.textContent = done ? "copied" : "selected: copy it with Ctrl+C";
  };

  // On paper the key tables are open, whatever is on the screen.
  let closed = [];
  const beforePrint = () => {
    closed = [...document.querySelectorAll("details[data-print]:not([open])")];
    closed.forEach((details) => (details.open = true));
  };
  const afterPrint = () => closed.forEach((details) => (details.open = false));

  document.querySelectorAll(".needs-script").forEach((e) => (e.hidden = false));
  document.addEventListener("change", apply);
  document.addEventListener("pointermove", move);
  document.addEventListener("pointerdown", move);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("click", followed);
  document.addEventListener("click", copy);
  addEventListener("hashchange", () => unfold(location.hash.slice(1)));
  addEventListener("beforeprint", beforePrint);
  addEventListener("afterprint", afterPrint);
  unfold(location.hash.slice(1));
  apply();
})();
