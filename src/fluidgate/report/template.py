"""The page around the sections, its colours and its style. One file, no request to anywhere."""

from string import Template

LIGHT = {
    "page": "#fbfbfa",
    "card": "#ffffff",
    "ink": "#1c1e21",
    "soft": "#5b6168",
    "line": "#d9dce0",
    "tint": "#f1f3f5",
    "better": "#0b6b3a",
    "better-tint": "#e2f4e9",
    "worse": "#a3241b",
    "worse-tint": "#fbe9e7",
    "accent": "#1f5fbf",
    "s0": "#6b7280",
    "s1": "#0072b2",
    "s2": "#b35900",
    "s3": "#007a5a",
    "s4": "#a83f7d",
    "s5": "#5b4bc4",
    "s6": "#8a6d00",
    "s7": "#0b7f93",
    "bound": "#2f7d5b",
    "again": "#c2410c",
    "under": "#cfd4da",
    "spread": "#8a929c",
}

DARK = {
    "page": "#14161a",
    "card": "#1c1f24",
    "ink": "#e8eaed",
    "soft": "#a2a9b2",
    "line": "#363b43",
    "tint": "#252930",
    "better": "#6fd69b",
    "better-tint": "#173426",
    "worse": "#ff9d92",
    "worse-tint": "#43201d",
    "accent": "#8ab8ff",
    "s0": "#a2a9b2",
    "s1": "#5db5f0",
    "s2": "#f2a24d",
    "s3": "#3ecfa3",
    "s4": "#ee8fc6",
    "s5": "#a99bff",
    "s6": "#dcc04a",
    "s7": "#56cfe1",
    "bound": "#3fae80",
    "again": "#f08a4b",
    "under": "#5d6670",
    "spread": "#7d8792",
}


def _colours(palette: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in palette.items())


CHART_STYLE = """
svg { font-size: 12px; }
svg text { fill: var(--ink); }
svg .soft { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--line); }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; }
svg .limit { stroke: var(--ink); stroke-width: 1.5; }
svg .dashed { stroke-dasharray: 4 3; }
svg .thin { stroke-width: 1; stroke-opacity: .75; }
svg .spread { fill: var(--spread); fill-opacity: .2; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .bound { fill: var(--bound); }
svg .again { fill: var(--again); }
svg .under { fill: var(--under); }
svg .on-bound, svg .on-again { fill: var(--card); }
"""
"""Of drawings, on the page and as files of their own."""

STYLE = (
    f"""
:root {{ color-scheme: light dark; {_colours(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
ul { margin: .4rem 0; padding-left: 1.2rem; max-width: 46rem; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.soft, figcaption, caption { color: var(--soft); font-size: .87rem; }
.cards { display: grid; gap: .9rem; margin: 1.25rem 0; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem; }
.card h2 { border: 0; padding: 0; margin: 0; font-size: .87rem; font-weight: 500; color: var(--soft); }
.card .answer { font-size: 1.2rem; font-weight: 650; line-height: 1.3; margin: .15rem 0 .4rem; }
.card h3 { margin: 0 0 .4rem; }
.card p { font-size: .93rem; }
.card ul { font-size: .87rem; color: var(--soft); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: .6rem 0; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem .8rem; }
th, td { padding: .38rem .8rem; border-top: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap; }
thead th { vertical-align: bottom; background: var(--tint); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); white-space: normal; min-width: 8.5rem; font-weight: 500; }
thead th:first-child { background: var(--tint); }
th small, td small { display: block; color: var(--soft); font-weight: 400; font-size: .78rem; }
td.text, th.text { text-align: left; white-space: normal; }
td.same { text-align: center; }
.pick { color: var(--accent); }
.note { display: inline-block; border-radius: 4px; padding: 0 .3rem; font-size: .78rem; }
.better { color: var(--better); background: var(--better-tint); }
.worse { color: var(--worse); background: var(--worse-tint); }
td.bad { color: var(--worse); }
.panels { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); margin: .6rem 0; }
figure { margin: .6rem 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem; }
.panels figure { margin: 0; }
.narrow { max-width: 27rem; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; padding: 0; font-size: .87rem; }
.legend svg { display: inline-block; width: 16px; height: 16px; vertical-align: -3px; margin-right: .35rem; }
footer { padding: 2rem 1.25rem 3rem; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg[data-hover] { touch-action: pan-y; cursor: crosshair; }
svg .cursor { stroke: var(--ink); stroke-width: 1; stroke-opacity: .55; pointer-events: none; }
[hidden] { display: none !important; }
.controls { display: flex; flex-wrap: wrap; gap: .35rem 1.5rem; margin: 1.2rem 0 0; padding: .55rem .9rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; font-size: .87rem; }
.controls > div { display: flex; flex-wrap: wrap; gap: .2rem .9rem; align-items: center; }
.controls label { display: inline-flex; align-items: center; gap: .3rem; cursor: pointer; }
.controls label svg { width: 16px; height: 16px; }
@media (min-width: 50rem) { #controls { position: sticky; top: .5rem; z-index: 2; box-shadow: 0 2px 10px #0002; } }
#tip { position: fixed; left: 0; top: 0; z-index: 3; pointer-events: none; background: var(--card); color: var(--ink);
  border: 1px solid var(--line); border-radius: 8px; padding: .35rem .6rem; font-size: .8rem; box-shadow: 0 2px 12px #0003;
  font-variant-numeric: tabular-nums; max-width: 92vw; }
#tip i { display: inline-block; width: .65rem; height: .65rem; border-radius: 2px; margin-right: .4rem; }
nav { display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .87rem; margin-top: .8rem; }
a { color: var(--accent); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); border-radius: 8px; padding: .7rem .9rem; font-size: .84rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
section { scroll-margin-top: 4.5rem; }
td.strip, th.strip { text-align: center; }
td.strip.yes { background: var(--better-tint); color: var(--better); }
td.strip.no { background: var(--worse-tint); color: var(--worse); }
td.strip.unclear { color: var(--soft); }
@media print { body { background: #fff; } .card, figure, tr { break-inside: avoid; } }
"""
    + CHART_STYLE
)

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fluidgate $version">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="soft">$subtitle</p>
$contents
</header>
<main>
$sections
</main>
<footer class="soft">Made by fluidgate $version.</footer>
<div id="tip" hidden></div>
<script>$script</script>
</body>
</html>
""")
