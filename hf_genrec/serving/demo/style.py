"""How the demo looks: Gradio's own colours, so that light and dark pages both work, and no font from elsewhere."""

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: 0 auto !important;
  --gr-soft: color-mix(in srgb, var(--body-text-color) 68%, var(--body-background-fill)); }
.gradio-container .row > *, .gradio-container .column > * { max-width: 100%; }
.gradio-container .html-container, .gr-pane { overflow-wrap: anywhere; }
#gr-top h1 { font-size: 1.5rem; font-weight: 700; margin: 0 0 .25rem; }
#gr-top p { color: var(--gr-soft); margin: 0; }
.gr-pane h2 { font-size: 1.05rem; font-weight: 650; margin: 0; }
.gr-note { color: var(--gr-soft); font-size: .82rem; margin: .2rem 0; }
.gr-warn { color: var(--color-accent); }
.gr-pane ol, .gr-pane ul { list-style: none; margin: 0; padding: 0; }
.gr-pane button { font: inherit; color: inherit; text-align: left; cursor: pointer; }
.gr-pane button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 1px; }
.gr-choices { display: flex; flex-direction: column; gap: .25rem; }
.gr-choices button { width: 100%; min-height: 2.4rem; padding: .35rem .7rem; border-radius: 8px;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary); }
.gr-choices button::before { content: "+"; color: var(--color-accent); font-weight: 700; margin-right: .5rem; }
.gr-choices button:hover, .gr-answer button:hover { border-color: var(--color-accent); }
#gr-buttons { box-sizing: border-box; padding: 0 calc(var(--spacing-xl) + 2px); }
.gr-history { display: flex; flex-direction: column; gap: .2rem; max-height: 21rem; overflow-y: auto; }
.gr-history li { display: flex; align-items: center; justify-content: space-between; gap: .5rem; font-size: .92rem;
  padding: .1rem .2rem .1rem .7rem; border-left: 3px solid var(--color-accent); min-width: 0; }
.gr-history li span { min-width: 0; }
.gr-history li.gr-unread { border-left-color: var(--border-color-primary); color: var(--gr-soft); }
.gr-history button { border: 0; background: none; min-width: 2.2rem; min-height: 2.2rem; text-align: center;
  font-size: 1.2rem; line-height: 1; flex: none; }
.gr-model { font-size: 1.02rem; font-weight: 650; margin: 0 0 .1rem; }
.gr-model small { color: var(--gr-soft); font-weight: 400; font-size: .82rem; }
.gr-head { display: flex; justify-content: space-between; padding: 0 .7rem; }
.gr-answer { display: flex; flex-direction: column; gap: .3rem; }
.gr-answer button { display: flex; align-items: baseline; gap: .6rem; width: 100%; min-height: 2.6rem;
  padding: .45rem .7rem; border-radius: 8px; border: 1px solid var(--border-color-primary);
  background: var(--background-fill-primary); }
.gr-answer button[aria-pressed="true"] { border-color: var(--color-accent); background: var(--color-accent-soft); }
.gr-rank { flex: none; width: 1.5rem; color: var(--gr-soft); font-variant-numeric: tabular-nums; }
.gr-title { flex: 1; min-width: 0; font-weight: 550; }
.gr-score { flex: none; color: var(--gr-soft); font-variant-numeric: tabular-nums; font-size: .9rem; }
.gr-badge { display: inline-block; font-size: .72rem; font-weight: 400; padding: 0 .45rem; margin-right: .2rem;
  border-radius: 999px; border: 1px solid var(--border-color-primary); color: var(--gr-soft); }
.gr-picture { margin-top: .9rem; padding-top: .7rem; border-top: 1px solid var(--border-color-primary); }
.gr-picture h4 { font-size: .98rem; font-weight: 650; margin: 0; }
.gr-scroll { display: flex; overflow-x: auto; max-width: 100%; }
.gr-scroll > * { flex: 1 0 100%; min-width: min-content; }
.gr-scroll.gr-more::after { content: "\\203a"; position: sticky; right: 0; flex: none; width: 2.4rem;
  margin-left: -2.4rem; display: flex; align-items: center; justify-content: flex-end; padding-right: .3rem;
  pointer-events: none; font-size: 1.6rem; font-weight: 700; color: var(--color-accent);
  background: linear-gradient(to left, var(--body-background-fill) 35%, transparent); }
.gr-heat { border-collapse: separate; border-spacing: 2px; font-size: .85rem; width: 100%; }
.gr-heat th { text-align: left; font-weight: 500; padding: .25rem .4rem; vertical-align: bottom; }
.gr-heat thead th { text-align: right; font-size: .78rem; color: var(--gr-soft); min-width: 4.6rem; }
.gr-heat thead th { overflow-wrap: normal; }
.gr-heat thead th:first-child { text-align: left; }
.gr-heat tbody th { min-width: 8rem; }
.gr-heat td { text-align: right; padding: .25rem .4rem; border-radius: 4px; font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--color-accent) calc(var(--share, 0%) * .75), transparent); }
.gr-heat .gr-rest th, .gr-heat .gr-rest td { color: var(--gr-soft); background: none; }
.gr-steps { display: flex; gap: .8rem; align-items: flex-start; padding-bottom: .3rem; }
.gr-step { flex: 1 0 12.5rem; min-width: 0; }
.gr-step h5 { font-size: .88rem; font-weight: 650; margin: 0; }
.gr-step ol { counter-reset: rank; }
.gr-step li { counter-increment: rank; display: flex; gap: .5rem; align-items: baseline; font-size: .86rem;
  padding: .22rem .4rem; border-radius: 6px; }
.gr-step li::before { content: counter(rank); flex: none; width: 1.2rem; color: var(--gr-soft); }
.gr-step li span { flex: 1; min-width: 0; }
.gr-step li b { flex: none; font-size: .74rem; font-weight: 600; }
.gr-step li.gr-here { background: var(--color-accent-soft); font-weight: 650; }
.gr-up { color: #15803d; } .gr-down { color: #b45309; }
.dark .gr-up { color: #4ade80; } .dark .gr-down { color: #fbbf24; }
.gr-tree ul { margin-left: .55rem; padding-left: .8rem; border-left: 2px solid var(--border-color-primary); }
.gr-tree ul li { margin: .3rem 0; }
.gr-tree code { font-family: var(--font-mono); font-size: .85rem; font-weight: 650; padding: .05rem .4rem;
  border-radius: 5px; background: var(--color-accent-soft); }
.gr-beside { display: flex; flex-wrap: wrap; gap: .25rem; margin: .25rem 0; font-size: .8rem; }
.gr-beside span, .gr-beside em { padding: .02rem .5rem; border-radius: 999px; max-width: 100%;
  border: 1px solid var(--border-color-primary); color: var(--gr-soft); font-style: normal; }
.gr-beside em { border-color: transparent; }
.gr-leaf { font-weight: 650; min-width: 8rem; }
@media (max-width: 640px) {
  .gradio-container { padding: .6rem !important; }
  .gr-tree ul { margin-left: .2rem; padding-left: .5rem; }
  .gr-heat th, .gr-heat td { padding: .25rem .2rem; }
  .gr-heat thead th { min-width: 3.2rem; }
  .gr-heat tbody th { min-width: 5.5rem; }
}
"""

# A button that is clicked says what it stands for. On a narrow screen the reasons are below: they are shown. What is
# wider than the screen says so at its right, until it is scrolled to its end.
CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  trigger('click', {...button.dataset});
  const below = button.dataset.row !== undefined && window.innerWidth < 700;
  const why = below && document.getElementById('gr-why');
  if (why) setTimeout(() => why.scrollIntoView({behavior: 'smooth', block: 'start'}), 150);
});
const hint = () => element.querySelectorAll('.gr-scroll').forEach((wide) => {
  const more = wide.scrollWidth - wide.clientWidth - wide.scrollLeft > 4;
  if (wide.classList.contains('gr-more') !== more) wide.classList.toggle('gr-more', more);
});
element.addEventListener('scroll', hint, true);
new ResizeObserver(hint).observe(element);
new MutationObserver(hint).observe(element, {childList: true, subtree: true});
"""
