// Send the settings when one of them moves, and show the answer. One question is on its way at most: what is moved
// meanwhile waits, and only the last of it is asked.
(() => {
  "use strict";
  const form = document.getElementById("settings");
  const byId = (id) => document.getElementById(id);
  let wanted = false;
  let asking = false;

  const three = (value) => String(Number(value.toPrecision(3)));
  const scaleOf = (slider) => [Number(slider.dataset.least), Number(slider.dataset.most)];
  const toNumber = (slider) => {
    const [least, most] = scaleOf(slider);
    byId(slider.dataset.for).value = three(least * Math.exp((slider.value / slider.max) * Math.log(most / least)));
  };
  const toSlider = (slider) => {
    const [least, most] = scaleOf(slider);
    const value = Number(byId(slider.dataset.for).value);
    if (value > 0) slider.value = Math.round((slider.max * Math.log(value / least)) / Math.log(most / least));
  };
  const describe = (slider) => slider.setAttribute("aria-valuetext", byId(slider.dataset.for).value);

  const settings = () => {
    const values = {};
    for (const field of form.querySelectorAll("[name]")) {
      const numeric = field.type === "number" || "number" in field.dataset;
      values[field.name] = numeric ? Number(field.value || 0) : field.value;
    }
    return values;
  };

  const say = (text, bad) => {
    const verdict = byId("verdict");
    if (verdict.textContent !== text) verdict.textContent = text;
    verdict.classList.toggle("bad", bad);
    byId("shown").classList.toggle("stale", bad);
  };
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const show = (answer) => {
    byId("numbers").replaceChildren(
      ...answer.numbers.map(([label, text]) => {
        const pair = document.createElement("div");
        pair.append(element("dt", label), element("dd", text));
        return pair;
      }),
    );
    byId("kv").innerHTML = answer.figures.kv; // drawn and escaped by our own server
    byId("latency").innerHTML = answer.figures.latency;
    byId("notes").replaceChildren(...[...answer.verdict.slice(1), ...answer.notes].map((text) => element("li", text)));
    byId("took").textContent = `Answered in ${answer.took_ms} ms.`;
  };

  const ask = async () => {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("answer", { method: "POST", headers, body: JSON.stringify(settings()) });
    const answer = await response.json();
    const refused = answer.error ?? answer.why_not;
    if (!refused) show(answer);
    if (!wanted) say(refused ?? answer.verdict[0], Boolean(refused)); // a screen reader hears the last answer only
  };
  const refresh = async () => {
    wanted = true;
    if (asking) return;
    asking = true;
    byId("answer").setAttribute("aria-busy", "true");
    while (wanted) {
      wanted = false;
      if (!form.checkValidity()) {
        const wrong = form.querySelector("input:invalid"); // a fieldset around it is invalid too
        say(`${form.querySelector(`label[for="${wrong.id}"]`).textContent}: ${wrong.validationMessage}`, true);
        continue;
      }
      try {
        await ask();
      } catch {
        if (!wanted) say("No answer: does fluidgate explore still run?", true);
      }
    }
    byId("answer").setAttribute("aria-busy", "false");
    asking = false;
  };

  const sliders = [...form.querySelectorAll("input[type=range]")];
  form.addEventListener("input", (event) => {
    if (event.target.type === "range") toNumber(event.target);
    else sliders.filter((slider) => slider.dataset.for === event.target.name).forEach(toSlider);
    sliders.forEach(describe);
    refresh();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  sliders.forEach((slider) => {
    toSlider(slider); // a browser may have kept the fields of an earlier visit
    describe(slider);
  });
  refresh();
})();
