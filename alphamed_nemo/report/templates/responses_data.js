"use strict";
// What the page knows of the responses, and how it gets their texts.

const OUTCOMES = ["right", "wrong", "no answer"];
const TRUNCATED = 4; // added to an outcome
const CACHED = 30; // chunks, of about a megabyte each, that stay in memory

const arriving = new Map(); // number of a chunk → what takes it

function alphamedChunk(build, number, groups) {
  arriving.get(`${build} ${number}`)?.(groups);
}

/** The index, with what follows from it. Responses, groups, questions and steps have numbers from 0. */
class Responses {
  constructor(index) {
    const groups = index.groupSize.length;
    this.index = index;
    this.count = index.reward.length;
    this.group = new Int32Array(this.count); // of each response
    this.groupStep = new Int32Array(groups);
    this.groupFirst = new Int32Array(groups + 1); // first response of each group
    this.groupRight = new Int32Array(groups);
    this.asked = index.questions.map(() => []); // groups of each question
    this.chunks = index.chunks.map(([first, rows], number) => ({ first, rows, number })).sort((a, b) => a.first - b.first);
    let group = 0;
    index.stepGroups.forEach((count, place) => {
      for (const end = group + count; group < end; group++) this.addGroup(group, index.steps[place]);
    });
  }

  addGroup(group, step) {
    const first = this.groupFirst[group];
    const end = first + this.index.groupSize[group];
    this.groupFirst[group + 1] = end;
    this.groupStep[group] = step;
    this.group.fill(group, first, end);
    for (let row = first; row < end; row++) this.groupRight[group] += this.outcome(row) === 0;
    this.asked[this.index.groupQuestion[group]].push(group);
  }

  step(row) { return this.groupStep[this.group[row]]; }
  question(row) { return this.index.groupQuestion[this.group[row]]; }
  outcome(row) { return this.index.outcome[row] & 3; }
  truncated(row) { return (this.index.outcome[row] & TRUNCATED) > 0; }
  share(group) { return this.groupRight[group] / this.index.groupSize[group]; }

  /** The chunk that has a response's text, or undefined. */
  chunkOf(row) {
    let low = 0, high = this.chunks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.chunks[middle].first <= row) low = middle + 1;
      else high = middle;
    }
    const chunk = this.chunks[low - 1];
    return chunk && row < chunk.first + chunk.rows ? chunk : undefined;
  }

  /** Responses that the filters let through, in order. */
  matching(wanted) {
    const { reward } = this.index;
    const found = [];
    for (let group = 0; group < this.groupStep.length; group++) {
      if (!this.groupMatches(group, wanted)) continue;
      for (let row = this.groupFirst[group]; row < this.groupFirst[group + 1]; row++) {
        if (wanted.outcome !== "" && this.outcome(row) !== Number(wanted.outcome)) continue;
        if (wanted.ended !== "" && this.truncated(row) !== (wanted.ended === "1")) continue;
        if (reward[row] < wanted.rewardFrom || reward[row] > wanted.rewardTo) continue;
        found.push(row);
      }
    }
    return found;
  }

  groupMatches(group, wanted) {
    const step = this.groupStep[group];
    if (step < wanted.stepFrom || step > wanted.stepTo) return false;
    if (wanted.trained !== "" && this.index.groupTrained[group] !== Number(wanted.trained)) return false;
    return this.levelMatches(this.index.groupQuestion[group], wanted);
  }

  levelMatches(question, wanted) {
    return wanted.level === "" || String(this.index.questions[question][1]) === wanted.level;
  }

  questionSays(question, words) {
    const [id, , stem] = this.index.questions[question];
    return id.toLowerCase().includes(words) || stem.toLowerCase().includes(words);
  }

  /** Questions that were asked in these steps, with how they were answered in the first and the last of them. */
  histories(wanted) {
    const found = [];
    this.asked.forEach((groups, question) => {
      if (!this.levelMatches(question, wanted)) return;
      if (wanted.words && !this.questionSays(question, wanted.words)) return;
      const within = groups.filter((group) => this.groupStep[group] >= wanted.stepFrom && this.groupStep[group] <= wanted.stepTo);
      if (!within.length) return;
      const history = this.history(question, within);
      if (!wanted.change || history.change === wanted.change) found.push(history);
    });
    return found;
  }

  history(question, groups) {
    const steps = new Set(groups.map((group) => this.groupStep[group]));
    const [first, last] = [groups[0], groups[groups.length - 1]];
    const [before, after] = [this.share(first), this.share(last)];
    let change = "once";
    if (steps.size > 1 && before < 0.5) change = after < 0.5 ? "wrong" : "learned";
    else if (steps.size > 1) change = after < 0.5 ? "lost" : "right";
    return { question, first, last, asked: steps.size, before, after, change };
  }
}

/** Texts of responses, loaded a chunk at a time. */
class Texts {
  constructor(data) {
    this.data = data;
    this.loaded = new Map(); // in the order of their use
  }

  /** A response's text with what belongs to it, or undefined where the page does not have it. */
  async of(row) {
    const chunk = this.data.chunkOf(row);
    return chunk && (await this.chunk(chunk.number))[row - chunk.first];
  }

  chunk(number) {
    const chunk = this.loaded.get(number) ?? this.load(number);
    this.loaded.delete(number);
    this.loaded.set(number, chunk);
    if (this.loaded.size > CACHED) this.loaded.delete(this.loaded.keys().next().value);
    return chunk;
  }

  load(number) {
    const { build } = this.data.index;
    const key = `${build} ${number}`;
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const end = () => {
        arriving.delete(key);
        script.remove();
        this.loaded.delete(number);
        reject(new Error("a file of texts is missing: the report has been made again, or copied without its folder “responses”; load this page again"));
      };
      arriving.set(key, (groups) => {
        arriving.delete(key);
        resolve(groups.flatMap(({ question, responses }) => responses.map((response) => ({ ...response, question }))));
      });
      script.onload = () => (arriving.has(key) ? end() : script.remove());
      script.onerror = end;
      script.src = `responses/chunk_${build}_${number}.js`;
      document.head.append(script);
    });
  }

  /** Looks for words in responses, which are in order. Gives (how many were looked at, those found since the last time). */
  async *search(rows, words) {
    let at = 0;
    while (at < rows.length) {
      const chunk = this.data.chunkOf(rows[at]);
      const end = chunk ? chunk.first + chunk.rows : rows[at] + 1;
      const texts = chunk && (await this.chunk(chunk.number));
      const found = [];
      for (; at < rows.length && rows[at] < end; at++) {
        const response = texts && texts[rows[at] - chunk.first];
        if (this.data.questionSays(this.data.question(rows[at]), words) || (response && says(response, words))) found.push(rows[at]);
      }
      yield [at, found];
    }
  }
}

function says(response, words) {
  const { text, question } = response;
  const parts = typeof text === "string" ? [text] : [text[0], text[2]];
  if (question) parts.push(question.stem, question.context, ...question.options.map(([, option]) => option));
  return parts.some((part) => part.toLowerCase().includes(words));
}
