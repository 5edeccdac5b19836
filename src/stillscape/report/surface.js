// Draws each surface of the page, and moves it with its slider. Numbers come from the JSON beside each figure.
(() => {
  "use strict";
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const FINE = 4, MORPH_MS = 280, STEP_MS = 850, TURN = Math.PI / 9, FLOOR = 0.1;
  const BLUE = ["#2a78b5", "#c4e0f3"], ORANGE = ["#fbe3b0", "#d97a1e", "#8f3906"];
  const TRAILS = ["#56b4e9", "#f0b232", "#ffffff"];
  const ZTITLES = { losses: "mean loss, nats", to_whole: "|Lₘ − Lₖ|, nats", next_step: "|Lₖ₊₁ − Lₖ|, nats" };

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function numbers(base64) {
    const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Array.from({ length: bytes.length / 4 }, (_, n) => view.getFloat32(4 * n, true));
  }

  function surfaces(plane, quantity) {
    const flat = numbers(plane[quantity]), width = plane.first.length, height = plane.second.length;
    return plane.k.map((_, n) =>
      plane.second.map((_, j) => flat.slice((n * height + j) * width, (n * height + j + 1) * width)));
  }

  function said(value) {
    if (value === 0) return "0";
    const text = value.toPrecision(3);
    return Math.abs(value) >= 1e-4 ? String(Number(text)) : Number(text).toExponential();
  }

  function between(places, at) {
    let i = 0;
    while (i < places.length - 2 && places[i + 1] < at) i += 1;
    return [i, Math.min(1, Math.max(0, (at - places[i]) / (places[i + 1] - places[i])))];
  }

  function height(plane, z, a, b) {
    const [i, s] = between(plane.first, a), [j, t] = between(plane.second, b);
    return (1 - t) * ((1 - s) * z[j][i] + s * z[j][i + 1]) + t * ((1 - s) * z[j + 1][i] + s * z[j + 1][i + 1]);
  }

  class Figure {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      this.plot = root.querySelector(".plot");
      this.slider = root.querySelector("input[type=range]");
      this.play = root.querySelector(".play");
      this.out = root.querySelector("output");
      this.kept = new Map();
      const far = this.narrow ? 1.16 : 1;
      const [right, front] = this.lowest();
      this.eye = { x: 1.22 * far * right, y: 1.32 * far * front, z: 0.82 * far };
      this.timer = this.frame = 0;
    }

    // The corner from which one looks in: the lowest, so that no slope stands in front of the weights.
    lowest() {
      const z = this.surfaces().at(-1), [low, high] = [z[0], z.at(-1)];
      const corners = [[high.at(-1), 1, 1], [low.at(-1), 1, -1], [high[0], -1, 1], [low[0], -1, -1]];
      corners.sort((one, other) => one[0] - other[0]);
      return corners[0].slice(1);
    }

    get plane() { return this.data.planes.find((plane) => plane.name === this.chosen("plane")); }
    get quantity() { return this.chosen("quantity"); }
    get narrow() { return innerWidth < 620; }
    get size() { return Number(this.slider.value); }
    get trails() {
      const box = this.root.querySelector("fieldset.trails input");
      return box && box.checked ? this.plane.trails : [];
    }
    chosen(group) { return this.root.querySelector(`fieldset.${group} input:checked`).value; }

    surfaces() {
      const key = `${this.plane.name} ${this.quantity}`;
      if (!this.kept.has(key)) this.kept.set(key, surfaces(this.plane, this.quantity));
      return this.kept.get(key);
    }

    get floor() { return this.quantity === "losses" ? -Infinity : FLOOR * this.data.tolerance; }

    at(size) { return this.surfaces()[size].map((row) => row.map((value) => Math.max(value, this.floor))); }

    async start() {
      this.root.hidden = false;
      this.fit();
      await Plotly.newPlot(this.plot, this.traces(), this.layout(),
        { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false });
      this.slider.addEventListener("input", () => this.move());
      for (const input of this.root.querySelectorAll("fieldset input"))
        input.addEventListener("change", () => { this.pause(); this.fit(); this.redraw(); });
      this.play.addEventListener("click", () => (this.timer ? this.pause() : this.run()));
      for (const button of this.root.querySelectorAll(".turn"))
        button.addEventListener("click", () => this.turn(Number(button.value)));
      this.plot.on("plotly_relayout", (change) => {
        if (change["scene.camera"]) this.eye = change["scene.camera"].eye;
      });
      const motion = () => { this.play.hidden = still.matches; if (still.matches) this.pause(); };
      motion();
      still.addEventListener("change", motion);
      dark.addEventListener("change", () => this.redraw());
      this.tell();
      this.arrived();
      this.root.dataset.ready = "yes";
    }

    // The next image after the last one was never seen: its slider ends one size before.
    fit() {
      this.slider.max = this.plane.k.length - (this.quantity === "next_step" ? 2 : 1);
      this.slider.value = Math.min(this.size, Number(this.slider.max));
      this.tell();
    }

    redraw() {
      cancelAnimationFrame(this.frame);
      this.tell();
      Plotly.react(this.plot, this.traces(), this.layout());
      this.arrived();
    }

    arrived() { this.root.dataset.shown = `${this.plane.name} ${this.quantity} ${this.plane.k[this.size]}`; }

    // Where a value lies on the color scale: by its root, since most of a surface is low; differences by their power.
    colors(z) {
      const losses = this.quantity === "losses";
      const place = (value) => losses ? Math.sqrt(Math.max(0, value)) : Math.log10(value / this.data.tolerance);
      return z.map((row) => row.map(place));
    }

    // A little above the surface, so that they are not half sunk in it.
    heights(z, places = this.plane.way) {
      const losses = this.quantity === "losses", above = 0.012 * (this.plane.top.losses - this.plane.low);
      return places.map(([, a, b]) => {
        const found = height(this.plane, z, a, b);
        return losses ? Math.min(found, this.plane.top.losses) + above : found * 1.05;
      });
    }

    move() {
      cancelAnimationFrame(this.frame);
      this.tell();
      const from = this.plot.data[0].z, to = this.at(this.size), started = performance.now();
      const show = (z) => {
        Plotly.restyle(this.plot, { z: [z], surfacecolor: [this.colors(z)] }, [0]);
        Plotly.restyle(this.plot, { z: [this.heights(z)] }, [1]);
        this.trails.forEach((trail, n) => Plotly.restyle(this.plot, { z: [this.heights(z, this.lifted(trail))] }, [2 + n]));
      };
      const step = (now) => {
        const t = Math.min(1, (now - started) / MORPH_MS);
        if (t >= 1) { arrive(); return; }
        show(to.map((row, j) => row.map((value, i) => from[j][i] + t * (value - from[j][i]))));
        this.frame = requestAnimationFrame(step);
      };
      const arrive = () => { show(to); this.arrived(); };
      if (still.matches || document.hidden) arrive();
      else this.frame = requestAnimationFrame(step);
    }

    run() {
      if (this.size >= Number(this.slider.max)) { this.slider.value = 0; this.move(); }
      this.out.setAttribute("aria-live", "off");
      this.play.textContent = "Pause";
      this.timer = setInterval(() => {
        if (this.size >= Number(this.slider.max)) { this.pause(); return; }
        this.slider.value = this.size + 1;
        this.move();
      }, STEP_MS);
    }

    pause() {
      clearInterval(this.timer);
      this.timer = 0;
      this.play.textContent = "Play";
      this.out.setAttribute("aria-live", "polite");
    }

    turn(way) {
      const { x, y, z } = this.eye, angle = way * TURN;
      this.eye = { x: x * Math.cos(angle) - y * Math.sin(angle), y: x * Math.sin(angle) + y * Math.cos(angle), z };
      Plotly.relayout(this.plot, { "scene.camera.eye": this.eye });
    }

    tell() {
      const plane = this.plane, n = this.size, flat = this.surfaces()[n].flat();
      const images = `${plane.k[n].toLocaleString("en")} of ${plane.k.at(-1).toLocaleString("en")} images`;
      const range = `${said(Math.min(...flat))} to ${said(Math.max(...flat))} nats`;
      const share = Math.round(100 * plane.within[n]);
      this.out.textContent =
        `k = ${images}: ${range}; ${share}\u00a0% of the plane is within the tolerance`;
      this.slider.setAttribute("aria-valuetext", images);
      const hidden = this.root.querySelector(".hidden-share");
      if (hidden) hidden.textContent = this.plane.hidden ? `In this plane, ${this.plane.hidden}.` : "";
    }

    traces() {
      const plane = this.plane, losses = this.quantity === "losses", z = this.at(this.size);
      const ink = this.color("--fig-ink"), scale = losses ? this.lossColors() : this.differenceColors();
      const bar = { thickness: 10, len: 0.72, outlinewidth: 0, tickfont: { color: ink, size: 11 }, x: 1.0, xpad: 4,
        tickvals: scale.ticks.map(([place]) => place), ticktext: scale.ticks.map(([, value]) => said(value)) };
      const surface = {
        type: "surface", x: plane.first, y: plane.second, z, surfacecolor: this.colors(z), showscale: !this.narrow,
        colorbar: bar, cmin: scale.low, cmax: scale.high, colorscale: scale.colors,
        lighting: { ambient: 0.72, diffuse: 0.5, specular: 0.04, roughness: 0.9 }, opacity: 1,
        contours: {
          x: { highlight: false }, y: { highlight: false },
          z: { highlight: true, highlightcolor: ink, highlightwidth: 2, show: losses, color: "rgba(255,255,255,0.35)",
            width: 1, start: plane.low, end: plane.top.losses, size: Math.max((plane.top.losses - plane.low) / 9, 1e-9) },
        },
        hovertemplate: `%{z:.4f} nats<br>${plane.axes[0]} %{x:.3f}<br>${plane.axes[1]} %{y:.3f}<extra></extra>`,
      };
      const way = {
        type: "scatter3d", mode: "lines+markers", x: plane.way.map((at) => at[1]), y: plane.way.map((at) => at[2]),
        z: this.heights(z), line: { color: "#d55e00", width: 5 },
        marker: { color: "#d55e00", size: 4, line: { color: "#ffffff", width: 1 } }, showlegend: false,
        text: plane.way.map((at) => `weights trained on ${at[0].toLocaleString("en")} images, ${said(at[3])} off the plane`),
        hovertemplate: "%{text}<extra></extra>",
      };
      return [surface, way, ...this.trails.map((trail, n) => this.trace(trail, n, z))];
    }

    // Between looks the way is drawn along the surface, not through it.
    lifted(trail) {
      const within = trail.points.filter(([, a, b]) => this.holds(a, b)), fine = [];
      within.forEach((at, n) => {
        const next = within[n + 1];
        fine.push(at);
        if (next) for (let s = 1; s < FINE; s += 1)
          fine.push([at[0], ...[1, 2, 3].map((c) => at[c] + (s / FINE) * (next[c] - at[c]))]);
      });
      return fine;
    }

    holds(a, b) {
      const { first, second } = this.plane;
      return a >= first[0] && a <= first.at(-1) && b >= second[0] && b <= second.at(-1);
    }

    trace(trail, n, z) {
      const points = this.lifted(trail), images = trail.k.toLocaleString("en");
      return {
        type: "scatter3d", mode: "lines", x: points.map((at) => at[1]), y: points.map((at) => at[2]),
        z: this.heights(z, points), showlegend: false,
        line: { color: TRAILS[n % TRAILS.length], width: 4 },
        text: points.map((at) => `training on ${images} images, step ${at[0]}, ${said(at[3])} off the plane`),
        hovertemplate: "%{text}<extra></extra>",
      };
    }

    lossColors() {
      const low = Math.sqrt(Math.max(0, this.plane.low)), high = Math.sqrt(this.plane.top.losses);
      const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
      return { low, high, colors: "Cividis", ticks: ticks.map((place) => [place, place > 0.05 * high ? Number((place * place).toPrecision(2)) : 0]) };
    }

    // Blue within the tolerance, orange above it, with an edge between them.
    differenceColors() {
      const tolerance = this.data.tolerance, low = Math.log10(FLOOR);
      const high = Math.max(Math.log10(this.plane.top[this.quantity] / tolerance), 0.5), edge = low / (low - high);
      const colors = [[0, BLUE[0]], [edge, BLUE[1]], [edge, ORANGE[0]], [(1 + edge) / 2, ORANGE[1]], [1, ORANGE[2]]];
      const powers = [-1, 0, 1, 2, 3].filter((power) => power <= high);
      return { low, high, colors, ticks: powers.map((power) => [power, tolerance * 10 ** power]) };
    }

    layout() {
      const plane = this.plane, losses = this.quantity === "losses";
      const ink = this.color("--fig-ink"), muted = this.color("--fig-muted"), rule = this.color("--fig-rule");
      const narrow = this.narrow;
      const axis = (title) => ({
        title: { text: title, font: { size: narrow ? 9 : 12, color: ink } }, color: muted, gridcolor: rule,
        zerolinecolor: rule, linecolor: rule, showbackground: false, showspikes: false, nticks: 5,
        tickfont: { size: narrow ? 9 : 11 },
      });
      const range = losses
        ? [Math.min(plane.low, 0), plane.top.losses]
        : [Math.log10(this.floor), Math.log10(Math.max(plane.top[this.quantity], 4 * this.data.tolerance))];
      return {
        autosize: true, margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, color: ink },
        hoverlabel: { bgcolor: this.color("--card"), bordercolor: muted, font: { color: ink, size: 12 } },
        scene: {
          xaxis: axis(plane.axes[0]), yaxis: axis(plane.axes[1]),
          zaxis: { ...axis(ZTITLES[this.quantity]), type: losses ? "linear" : "log", range, autorange: false,
            ...(losses ? {} : { dtick: 1, exponentformat: "none" }) },
          camera: { eye: this.eye, center: { x: 0, y: 0, z: -0.12 } }, aspectmode: "manual",
          aspectratio: { x: 1.1, y: 1.1, z: 0.75 }, dragmode: "orbit",
        },
      };
    }

    color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  }

  // Beside every table of numbers: its cells as text, tabs between them, as spreadsheets take them.
  function offerCopies() {
    for (const table of document.querySelectorAll(".behind table")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy: ${table.parentElement.getAttribute("aria-label")}`);
      button.addEventListener("click", async () => {
        const rows = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t"));
        try {
          await navigator.clipboard.writeText(rows.join("\n"));
          button.textContent = "Copied";
        } catch { getSelection().selectAllChildren(table); } // one key copies what is selected
      });
      table.parentElement.before(button);
    }
  }

  async function begin() {
    offerCopies();
    const roots = [...document.querySelectorAll("figure.interactive")];
    try {
      const code = document.createElement("script");
      code.textContent = await unpack(document.getElementById("plotly-gz").textContent.trim());
      document.head.append(code);
      if (typeof Plotly === "undefined") return;
    } catch { return; } // an old browser: the pictures that stand still are there
    for (const root of roots) {
      const figure = new Figure(root);
      try { await figure.start(); } catch { root.hidden = true; }
      if (root.querySelector(".no-webgl, .gl-error")) root.hidden = true;
    }
  }
  addEventListener("DOMContentLoaded", begin);
})();
