"""The style of a report: for light and dark screens, and for paper. No fonts or scripts from elsewhere."""

__all__ = ["STYLE"]

STYLE = """
:root { --paper: #f6f7f9; --card: #ffffff; --ink: #1f2430; --quiet: #667085; --rule: #e2e5ea;
        --blue: #2563a8; --orange: #c2531a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12141a; --card: #1a1d24; --ink: #e4e7ec; --quiet: #98a1b2; --rule: #2c313b;
          --blue: #7db0e8; --orange: #f0925c; }
  img.drawing { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 20px 64px; }
header p { margin: 6px 0; color: var(--quiet); max-width: 75ch; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 10px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 14px; }
h3 { font-size: 17px; margin: 22px 0 10px; }
h2 + h3 { margin-top: 0; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
          padding: 24px; margin: 20px 0; }
section > p:first-of-type { margin-top: 0; }
section > p:last-child { margin-bottom: 0; }
.quiet { color: var(--quiet); font-size: 14px; }
.right, .wrong { font-weight: 600; }
.right { color: var(--blue); }
.wrong { color: var(--orange); }
td.wrong .quiet { font-weight: 400; }
.tiles { display: flex; flex-wrap: wrap; gap: 16px 36px; margin-bottom: 18px; }
.tile { max-width: 230px; }
.tile .name { color: var(--quiet); font-size: 14px; }
.tile .value { font-size: 28px; font-weight: 600; line-height: 1.25; letter-spacing: -0.01em;
               font-variant-numeric: tabular-nums; }
.tile.big .value { color: var(--blue); font-size: 46px; line-height: 1.1; }
.tile:not(.big) { padding-top: 14px; }
.tile .under { color: var(--quiet); font-size: 13px; }
img { display: block; max-width: 100%; height: auto; }
img.drawing { border-radius: 6px; }
img.frames { width: 100%; border-radius: 8px; }
img.strip { width: 360px; min-width: 260px; border-radius: 5px; }
img.square { width: 620px; margin: 0 auto; }
img.square.wide { width: 100%; }
.beside { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 32px; margin-top: 14px; }
.beside img { width: 480px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th { text-align: left; color: var(--quiet); font-weight: 500; font-size: 13px; padding: 0 12px 6px 0; }
td { border-top: 1px solid var(--rule); padding: 10px 12px 10px 0; vertical-align: middle; }
td:first-child { width: 384px; }
td.file { overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 24px 48px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 16px; margin: 0; font-size: 14.5px; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: 0.92em ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
@media print {
  :root { --paper: #ffffff; --card: #ffffff; --ink: #000000; --quiet: #555555; --rule: #cccccc;
          --blue: #2563a8; --orange: #c2531a; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin: 18pt 0; }
  img, tr, .tile { break-inside: avoid; }
  img.drawing { filter: none; mix-blend-mode: normal; }
  h2, h3 { break-after: avoid; }
}
"""
