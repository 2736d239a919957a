"use strict";
// What is shown of the selection: the question, its history over the run, and one or two responses.

const BOXED = /(\\boxed\{[^{}]*\})/;

class Detail {
  constructor(place, data, texts) {
    Object.assign(this, { place, data, texts, rows: [], turn: 0 });
  }

  /** Shows responses to one question, side by side. */
  async show(rows) {
    this.rows = rows;
    const turn = ++this.turn;
    let found, problem;
    try {
      found = await Promise.all(rows.map((row) => this.texts.of(row)));
    } catch (error) {
      problem = error;
    }
    if (turn !== this.turn) return; // another selection came first
    if (problem) return this.place.replaceChildren(element("p", { class: "note", role: "alert" }, problem.message));
    const question = this.data.question(rows[0]);
    const cards = rows.map((row, which) => this.response(row, found[which], which));
    this.place.replaceChildren(
      this.question(question, found.find((each) => each?.question)?.question),
      ...this.history(question),
      element("div", { class: rows.length > 1 ? "pair" : "" }, ...cards),
    );
  }

  clear() {
    this.turn++;
    this.place.replaceChildren();
  }

  question(number, text) {
    const [id, level] = this.data.index.questions[number];
    const facts = [id, text?.dataset, level === null ? undefined : `level ${level}`].filter(Boolean).join(" · ");
    if (!text) return element("article", { class: "card" }, element("p", { class: "step" }, facts));
    const options = text.options.map(([letter, option]) => element("li", { class: letter === text.key ? "key" : "" }, `${letter}: ${option}`));
    const key = text.options.length ? "The key is in bold." : `Key: ${text.key}`;
    return element("article", { class: "card", "aria-label": "Question", dir: "auto" },
      element("p", { class: "step" }, facts),
      text.context ? element("p", { class: "question" }, text.context) : undefined,
      element("p", { class: "question" }, text.stem),
      element("ol", {}, ...options),
      element("p", { class: "step" }, key));
  }

  /** One line for each time that the question was asked. */
  history(question) {
    const groups = this.data.asked[question];
    if (groups.length < 2) return [];
    const shown = new Set(this.rows.map((row) => this.data.group[row]));
    const lines = groups.map((group) => this.line(group, shown.has(group)));
    const heads = ["Step", "Right", "", "Tokens", ""].map((name) => element("th", { scope: "col" }, name));
    return [element("div", { class: "scroll history-box", tabindex: 0, role: "region", "aria-label": "Every time that the question was asked" },
      element("table", { class: "history" }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines)))];
  }

  line(group, now) {
    const { data } = this;
    const [first, end] = [data.groupFirst[group], data.groupFirst[group + 1]];
    let marks = "", tokens = 0;
    for (let row = first; row < end; row++) {
      marks += "✓✗–"[data.outcome(row)];
      tokens += data.index.tokens[row];
    }
    const step = data.groupStep[group];
    const pick = () => this.show([this.rows[0], first]);
    return element("tr", { class: now ? "now" : "" },
      element("td", {}, String(step)),
      element("td", {}, `${data.groupRight[group]} of ${end - first}`),
      element("td", { class: "strip", "aria-hidden": "true" }, marks),
      element("td", {}, (tokens / (end - first)).toFixed(0)),
      element("td", {}, element("button", { type: "button", click: pick, "aria-label": `Show step ${step} beside` }, "beside")));
  }

  response(row, found, which) {
    const { data } = this, { index } = data;
    const outcome = data.outcome(row);
    const reward = Number(index.reward[row].toFixed(4));
    const facts = [
      element("span", { class: "verdict" }, OUTCOMES[outcome]),
      `reward ${reward}`,
      found?.shaped !== undefined ? `with its penalty ${found.shaped}` : undefined,
      found ? `advantage ${found.advantage}` : undefined,
      found?.answer != null ? `answered ${found.answer}` : undefined,
      `${index.tokens[row].toLocaleString("en")} tokens${data.truncated(row) ? ", cut off" : ""}`,
      `weights of step ${index.version[row]}`,
      index.groupTrained[data.group[row]] ? undefined : "not trained on",
      ...(found?.parts ?? []).map(([name, value]) => `${name} ${Number(value.toFixed(4))}`),
    ];
    return element("article", { class: `card ${outcome === 0 ? "right" : "wrong"}` },
      element("h2", {}, `Step ${data.step(row)}`),
      this.moves(row, which),
      found ? element("pre", { dir: "auto", tabindex: 0, "aria-label": "Response" }, ...words(found.text))
        : element("p", { class: "note" }, `This text is not on the page; it is in rollouts/step_${data.step(row)}.parquet.`),
      element("p", { class: "facts" }, ...facts.filter((fact) => fact !== undefined).map((fact) => element("span", {}, fact))));
  }

  /** To the other responses of the group. */
  moves(row, which) {
    const group = this.data.group[row];
    const [first, end] = [this.data.groupFirst[group], this.data.groupFirst[group + 1]];
    const go = async (to, name) => {
      await this.show(this.rows.map((each, place) => (place === which ? to : each)));
      const buttons = this.place.querySelectorAll(`button[data-move="${which} ${name}"]`);
      buttons[0]?.focus({ preventScroll: true });
    };
    const button = (name, to, sign) => element("button", {
      type: "button", click: () => go(to, name), "data-move": `${which} ${name}`, "aria-label": `${name} response of the group`,
      disabled: to < first || to >= end ? "" : undefined,
    }, sign);
    return element("p", { class: "moves" }, button("Previous", row - 1, "‹"), `response ${row - first + 1} of ${end - first}`, button("Next", row + 1, "›"));
  }
}

/** A response as nodes: boxed answers marked, and what was left out of a long one. */
function words(text) {
  if (typeof text !== "string") {
    const [start, left, end] = text;
    return [...words(start), element("span", { class: "left-out" }, `… ${left.toLocaleString("en")} characters left out …`), ...words(end)];
  }
  return text.split(BOXED).map((part, at) => (at % 2 ? element("mark", {}, part) : part));
}
