"use strict";
// The page: filters, the list that they give, and the selection.

const WAIT = 250; // milliseconds from the last key to a search, and between the lists that a search gives
const CHANGES = { learned: "wrong → right", lost: "right → wrong", right: "stays right", wrong: "stays wrong", once: "one step" };
const ORDERS = {
  longest: (index) => (a, b) => index.tokens[b] - index.tokens[a] || a - b,
  shortest: (index) => (a, b) => index.tokens[a] - index.tokens[b] || a - b,
  highest: (index) => (a, b) => index.reward[b] - index.reward[a] || a - b,
  lowest: (index) => (a, b) => index.reward[a] - index.reward[b] || a - b,
};
const QUESTION_ORDERS = {
  gain: (a, b) => b.after - b.before - (a.after - a.before) || a.question - b.question,
  loss: (a, b) => a.after - a.before - (b.after - b.before) || a.question - b.question,
};
const HEADS = {
  responses: [["Step", "n"], ["Question"], ["Level", "n wide"], ["Outcome"], ["Reward", "n wide"], ["Tokens", "n"]],
  questions: [["Question"], ["Level", "n wide"], ["Steps", "n wide"], ["First", "n"], ["Last", "n"], ["Change"]],
};

const shown = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}%`;

function alphamedIndex(index) {
  new Page(new Responses(index));
}

class Page {
  constructor(data) {
    this.data = data;
    this.texts = new Texts(data);
    this.form = shown("filters");
    this.detail = new Detail(shown("detail"), data, this.texts);
    this.list = new List(shown("list"), shown("space"), (item) => this.cells(item), (item) => this.choose(item));
    this.turn = 0;
    this.fill();
    this.listen();
    this.update();
    performance.mark("alphamed-list");
  }

  /** Ranges and levels that there are. */
  fill() {
    const { steps, questions } = this.data.index;
    const fields = this.form.elements;
    fields.step_from.placeholder = steps[0];
    fields.step_to.placeholder = steps[steps.length - 1];
    const levels = [...new Set(questions.map(([, level]) => level))].filter((level) => level !== null).sort((a, b) => a - b);
    fields.level.append(...levels.map((level) => element("option", { value: level }, String(level))));
    fields.level.disabled = !levels.length;
  }

  listen() {
    let timer;
    this.form.addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => this.update(), event.target.name === "words" ? WAIT : 0);
    });
    this.form.addEventListener("reset", () => setTimeout(() => this.update()));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    shown("list").addEventListener("keydown", (event) => {
      if (event.key === "Enter") shown("detail").focus();
    });
  }

  wanted() {
    const of = Object.fromEntries(new FormData(this.form));
    const number = (name, otherwise) => (of[name] === "" ? otherwise : Number(of[name]));
    return {
      level: "", // of a list that is off, as no question has a level
      ...of,
      words: of.words.trim().toLowerCase(),
      stepFrom: number("step_from", -Infinity), stepTo: number("step_to", Infinity),
      rewardFrom: number("reward_from", -Infinity), rewardTo: number("reward_to", Infinity),
    };
  }

  async update() {
    const wanted = this.wanted(), turn = ++this.turn;
    this.view = wanted.view;
    document.body.classList.toggle("questions", this.view === "questions");
    shown("list").setAttribute("aria-label", this.view === "responses" ? "Responses" : "Questions");
    this.form.elements.words.placeholder = this.view === "responses" ? "in the response or the question" : "at the beginning of the question, or in its id";
    shown("heads").replaceChildren(...HEADS[this.view].map(([name, of = ""]) => element("span", { class: of }, name)));
    if (this.view === "questions") {
      const found = this.data.histories(wanted);
      if (wanted.question_order) found.sort(QUESTION_ORDERS[wanted.question_order]);
      return this.present(found, this.counts(found.length, this.data.index.questions.length, "questions"));
    }
    const rows = this.data.matching(wanted);
    if (wanted.words) return this.search(rows, wanted, turn);
    this.present(this.sorted(rows, wanted.order), this.counts(rows.length, this.data.count, "responses"));
  }

  sorted(rows, order) {
    return order ? rows.sort(ORDERS[order](this.data.index)) : rows;
  }

  async search(rows, wanted, turn) {
    const found = [];
    let last = 0;
    this.present([], "Searching…");
    try {
      for await (const [done, more] of this.texts.search(rows, wanted.words)) {
        if (turn !== this.turn) return; // other filters by now
        found.push(...more);
        if (performance.now() - last < WAIT) continue;
        last = performance.now();
        this.list.show(found, -1, false);
        shown("status").textContent = `Searching… ${done.toLocaleString("en")} of ${rows.length.toLocaleString("en")} responses, ${found.length.toLocaleString("en")} found`;
        await new Promise((next) => setTimeout(next)); // keys and clicks first
      }
    } catch (error) {
      shown("status").textContent = `Search has stopped: ${error.message}.`;
      return;
    }
    if (turn === this.turn) this.present(this.sorted(found, wanted.order), this.counts(found.length, this.data.count, "responses"));
  }

  present(items, status) {
    shown("status").textContent = status;
    this.list.show(items, items.length ? 0 : -1);
    if (items.length) this.choose(items[0]);
    else this.detail.clear();
  }

  counts(found, all, what) {
    const number = found === all ? all.toLocaleString("en") : `${found.toLocaleString("en")} of ${all.toLocaleString("en")}`;
    return `${number} ${what}`;
  }

  choose(item) {
    if (this.view === "responses") return this.detail.show([item]);
    const { first, last } = item;
    const rows = [this.data.groupFirst[first], this.data.groupFirst[last]];
    return this.detail.show(first === last ? rows.slice(0, 1) : rows);
  }

  cells(item) {
    return this.view === "responses" ? this.responseCells(item) : this.questionCells(item);
  }

  responseCells(row) {
    const { data } = this, outcome = data.outcome(row);
    const [id, level, stem] = data.index.questions[data.question(row)];
    return [
      element("span", { class: "n" }, String(data.step(row))),
      element("span", { dir: "auto", title: id }, stem || id),
      element("span", { class: "n wide" }, level === null ? "–" : String(level)),
      element("span", { class: outcome ? "is-wrong" : "is-right" }, OUTCOMES[outcome]),
      element("span", { class: "n wide" }, String(Number(data.index.reward[row].toFixed(2)))),
      element("span", { class: "n" }, `${data.index.tokens[row]}${data.truncated(row) ? " …" : ""}`),
    ];
  }

  questionCells({ question, asked, before, after, change }) {
    const [id, level, stem] = this.data.index.questions[question];
    const better = change === "learned" || change === "right", worse = change === "lost" || change === "wrong";
    return [
      element("span", { dir: "auto", title: id }, stem || id),
      element("span", { class: "n wide" }, level === null ? "–" : String(level)),
      element("span", { class: "n wide" }, String(asked)),
      element("span", { class: "n" }, percent(before)),
      element("span", { class: "n" }, asked > 1 ? percent(after) : "–"),
      element("span", { class: better ? "is-right" : worse ? "is-wrong" : "" }, CHANGES[change]),
    ];
  }
}
