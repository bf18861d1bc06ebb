"""Palette and style sheet of the report, for light, dark and print."""

# Okabe and Ito's palette, told apart under the common color vision deficiencies; lighter in dark mode.
COLORS = {
    "base": "var(--gray)",
    "sft": "var(--blue)",
    "init": "var(--sky)",
    "rm": "var(--green)",
    "ppo": "var(--purple)",
    "ppo_ptx": "var(--orange)",
}
SPARE_COLORS = ("var(--sky)", "var(--yellow)", "var(--green)", "var(--purple)")

STYLE = """
:root{color-scheme:light dark;--bg:#f6f6f4;--card:#fff;--ink:#1b2230;--muted:#596273;--line:#dfe2e6;
--gray:#7d8592;--blue:#0072b2;--orange:#d55e00;--green:#009e73;--purple:#b0558a;--sky:#3f9fd8;--yellow:#b88a00;
--good:#00795a;--bad:#b34700}
@media screen and (prefers-color-scheme:dark){:root{--bg:#11151b;--card:#191f27;--ink:#e7eaef;--muted:#9da7b6;
--line:#2e3641;--gray:#949dab;--blue:#4aa6e0;--orange:#f0823c;--green:#2fbf96;--purple:#d98bb8;--sky:#7cc4ee;
--yellow:#e0b640;--good:#3fcaa2;--bad:#f59a5f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,footer{max-width:1160px;margin:0 auto;padding:0 20px}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.15;margin:2.2rem 0 .5rem;letter-spacing:-.015em}
h2{font-size:1.35rem;margin:2.6rem 0 .2rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.3rem 0 .5rem}
p{margin:.5rem 0 1rem;max-width:72ch}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.9rem;margin:.2rem 0 1.2rem}
nav a{color:var(--muted);text-decoration-color:var(--line);text-underline-offset:3px}
nav a:hover{color:var(--ink)}
.hero,.grid{display:grid;gap:16px}
.hero{grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));align-items:start;gap:16px 40px}
.hero p{margin-top:0}
.hero .lead{font-size:1.15rem;font-weight:600;line-height:1.45}
.g4{grid-template-columns:repeat(auto-fill,minmax(min(100%,255px),1fr))}
.g3{grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr))}
.g2{grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.stack{display:grid;gap:16px;align-content:start}
figure,.card,.table{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px}
figure{padding:12px 12px 8px;break-inside:avoid}
figcaption{font-weight:600;font-size:.92rem;line-height:1.35;margin-bottom:4px}
figcaption small,.note{font-weight:400;color:var(--muted)}
.note{font-size:.9rem}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
svg text{fill:var(--muted)}
svg .v{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}
svg .l{fill:var(--ink)}
svg .grid-line{stroke:var(--line);stroke-width:1}
svg .ref{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:4 3}
svg .whisker{stroke:var(--ink);stroke-width:1.6;fill:none}
.table{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.5rem .9rem;text-align:right;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:8rem}
thead th{border-top:0;font-size:.9rem}
tbody th{font-weight:400}
tbody th[title]{cursor:help}
th small,td small{color:var(--muted);font-weight:400}
td.best{font-weight:700}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.4em}
details{margin:.4rem 0 1rem}
summary{cursor:pointer;color:var(--muted);font-size:.92rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;font-size:.92rem;margin:.7rem 0}
dt{font-weight:600}
dd{margin:0;color:var(--muted);min-width:0;overflow-wrap:anywhere}
.card{padding:16px;margin:0 0 16px}
.prompt{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.98rem;margin:0 0 14px;padding:10px 14px;
background:var(--bg);border-radius:7px;max-height:16em;overflow:auto}
.chip{display:inline-block;font-size:.78rem;color:var(--muted);border:1px solid var(--line);
border-radius:99px;padding:0 .7em;margin-bottom:.5rem}
.answers{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr))}
.answer{border-top:3px solid;padding-top:8px;display:flex;flex-direction:column;min-width:0;
break-inside:avoid}
.who{display:flex;justify-content:space-between;gap:8px;font-size:.88rem;font-weight:600}
.who span{font-weight:400;color:var(--muted);font-variant-numeric:tabular-nums}
.who .top{color:var(--ink);font-weight:700}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.95rem;margin:.4rem 0 .7rem;max-height:18em;
overflow:auto;flex:1}
.badges{display:flex;flex-wrap:wrap;gap:4px 6px;font-size:.78rem}
.badges span{border:1px solid var(--line);border-radius:5px;padding:0 .5em;color:var(--muted)}
.badges .good{color:var(--good);border-color:currentColor}
.badges .bad{color:var(--bad);border-color:currentColor}
footer{margin-top:2.5rem;padding-top:1rem;padding-bottom:2.5rem;position:relative}
footer::before{content:"";position:absolute;left:20px;right:20px;top:0;border-top:1px solid var(--line)}
code{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:520px){main,footer{padding-left:14px;padding-right:14px}
th,td{padding:.45rem .5rem}table{font-size:.87rem}th:first-child,td:first-child{min-width:6.5rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{html{font-size:13px}body{background:#fff;font-size:13px;-webkit-print-color-adjust:exact;
print-color-adjust:exact}nav,summary{display:none}.prompt,.text{max-height:none;overflow:visible}
.card,.table{break-inside:avoid}h2,h3,.note{break-after:avoid}.hero,.g2{grid-template-columns:1fr 1fr}
.g4{grid-template-columns:repeat(4,1fr);gap:8px}.stack{gap:8px}.g4 figure{padding:8px}
.g3{grid-template-columns:repeat(3,1fr)}.answers{grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}}
"""
