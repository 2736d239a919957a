"use strict";
// A list of any length, of which only the rows in sight exist.

const ROW = 34; // pixels, as in responses.css
const BEYOND = 8; // rows drawn above and below what is in sight

/** An element; children that are texts stay texts, whatever is in them. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined));
  return made;
}

class List {
  /** draw gives the cells of an item; choose is told of the item that is selected. */
  constructor(box, space, draw, choose) {
    Object.assign(this, { box, space, draw, choose, items: [], at: -1, drawn: "" });
    box.addEventListener("scroll", () => requestAnimationFrame(() => this.render()), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.select(Number(row.dataset.at));
    });
    new ResizeObserver(() => this.render()).observe(box);
  }

  /** Shows items, with the one at `at` selected; -1: none. */
  show(items, at, scroll = true) {
    Object.assign(this, { items, at, drawn: "" });
    this.space.style.height = `${items.length * ROW}px`;
    if (scroll) this.box.scrollTop = 0;
    this.render();
  }

  select(at) {
    if (at < 0 || at >= this.items.length) return;
    this.at = at;
    const top = at * ROW, { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.box.scrollTop = top + ROW - clientHeight;
    this.drawn = "";
    this.render();
    this.choose(this.items[at]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1), last = this.items.length - 1;
    const moves = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: last };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.select(Math.min(last, Math.max(0, moves[event.key])));
  }

  render() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - BEYOND);
    const end = Math.min(this.items.length, first + Math.ceil(this.box.clientHeight / ROW) + 2 * BEYOND);
    if (this.drawn === `${first} ${end}`) return;
    this.drawn = `${first} ${end}`;
    const rows = [];
    for (let at = first; at < end; at++) rows.push(this.row(at));
    this.space.replaceChildren(...rows);
    if (first <= this.at && this.at < end) this.box.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const row = element("div", {
      id: `row-${at}`, class: "row", role: "option", "data-at": at,
      "aria-posinset": at + 1, "aria-setsize": this.items.length, "aria-selected": at === this.at,
    }, ...this.draw(this.items[at]));
    row.style.top = `${at * ROW}px`;
    return row;
  }
}
