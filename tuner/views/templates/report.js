// A printed plot is as wide as the paper, not as the window was.
const plots = () => document.querySelectorAll(".js-plotly-plot");
addEventListener("beforeprint", () => {
  plots().forEach(plot =>
    Plotly.relayout(plot, {width: plot.closest(".grid") ? 320 : 670, autosize: false}));
  document.querySelectorAll("details").forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => plots().forEach(plot =>
  Plotly.relayout(plot, {width: null, autosize: true})));
