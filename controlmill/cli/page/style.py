"""How the page looks: light and dark as the reader's system is, one column, narrow enough for a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f7f9; --line: #dfe3e8; --ink: #1f2328; --pale: #5c6570;
  --accent: #1d4ed8; --good: #047857; --bad: #b91c1c; --warn: #92560a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --panel: #1c2127; --line: #2f363e; --ink: #d7dce2; --pale: #98a2ad;
    --accent: #7aa7ff; --good: #3ecf9a; --bad: #ff8080; --warn: #f0a550;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header p.over { margin: 0; color: var(--pale); font-size: .875rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .3rem 0 .6rem; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.pale { color: var(--pale); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .6rem; margin: 1.3rem 0 0;
}
dl.facts div { background: var(--panel); border-radius: 8px; padding: .6rem .8rem; }
dl.facts dt { color: var(--pale); font-size: .8rem; }
dl.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
picture img { width: 100%; }
figure { margin: 0; }
figcaption { font-size: .85rem; color: var(--pale); margin-top: .3rem; overflow-wrap: anywhere; }
.grids { display: grid; gap: 1.4rem; }
.grids figcaption { margin: 0 0 .35rem; font-size: .95rem; color: var(--ink); }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr)); gap: 1.1rem; }
.rows .pair { display: flex; gap: 4px; }
.rows .pair img { flex: 1 1 0; min-width: 0; border-radius: 4px; border: 1px solid var(--line); object-fit: contain; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1rem .38rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--pale); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name code { overflow-wrap: normal; white-space: nowrap; }
td.wide { min-width: 14rem; overflow-wrap: anywhere; }
td.bar { width: 35%; min-width: 9rem; }
svg.range { display: block; width: 100%; height: 1.4rem; }
code { font: .875em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3rem; color: var(--pale); font-size: .85rem; }
@media (max-width: 640px) {
  main { padding: 1.2rem 1rem 3rem; }
  h1 { font-size: 1.35rem; }
  dl.facts { grid-template-columns: 1fr 1fr; }
}
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""
