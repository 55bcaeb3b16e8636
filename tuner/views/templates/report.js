// A printed plot is as wide as the paper, not as the window was.
const plots = () => document.querySelectorAll(".js-plotly-plot");
addEventListener("beforeprint", () => {
  plots().forEach(plot =>
    Plotly.relayout(plot, {width: plot.closest(".grid") ? 320 : 670, autosize: false}));
  document.querySelectorAll("details").forEach(part => { part.open = true; });
});
addEventListener("afterprint", () => plots().forEach(plot =>
  Plotly.relayout(plot, {width: null, autosize: true})));

// Tables sort by a click on a heading: numbers before texts, dashes last.
const key = (row, i) => {
  const text = row.cells[i].textContent, number = Number(text.replaceAll(",", ""));
  return text === "-" || text === "" ? [2, 0] : Number.isNaN(number) ? [1, text] : [0, number];
};
document.querySelectorAll(".scroll table").forEach(table => {
  const headings = [...table.rows[0].cells];
  headings.forEach((heading, i) => {
    heading.classList.add("sortable");
    heading.tabIndex = 0;
    heading.onkeydown = event => { if (event.key === "Enter") heading.onclick(); };
    heading.onclick = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map(row => [key(row, i), row]);
      const sign = down ? -1 : 1;
      rows.sort(([a], [b]) => a[0] - b[0] || sign * (a[1] > b[1] ? 1 : a[1] < b[1] ? -1 : 0));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
  });
});

// Each figure of samples shows one of its grids; a slider chooses which, another moves them all.
const figures = [...document.querySelectorAll("figure[data-trial]")];
const shown = figure => [...figure.querySelectorAll("img")];
const epoch = image => Number(image.dataset.epoch);
const show = (figure, index) => {
  shown(figure).forEach((image, i) => { image.hidden = i !== index; });
  figure.querySelector("input").value = index;
  figure.querySelector("output").textContent = shown(figure)[index].dataset.label;
};
figures.forEach(figure => {
  const slider = figure.querySelector("input");
  slider.oninput = () => show(figure, Number(slider.value));
});
document.querySelectorAll(".controls").forEach(controls => {
  controls.hidden = figures.length < 2;
  controls.querySelectorAll("[type=checkbox]").forEach(box => {
    box.oninput = () => {
      const figure = figures.find(one => one.dataset.trial === box.value);
      figure.hidden = !box.checked;
    };
  });
  const epochs = [...new Set(figures.flatMap(shown).map(epoch))].sort((a, b) => a - b);
  const every = controls.querySelector(".every"), slider = every.querySelector("input");
  slider.max = epochs.length - 1;
  slider.value = slider.max;
  slider.oninput = () => {
    const at = epochs[slider.value];
    every.querySelector("output").textContent = at;
    figures.forEach(figure =>
      show(figure, Math.max(0, shown(figure).findLastIndex(image => epoch(image) <= at))));
  };
  every.hidden = epochs.length < 2;
});
