// Making nodes. Texts become text nodes, whatever is in them.

/** An element with properties and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  const { data = {}, ...rest } = properties;
  Object.assign(node, rest);
  Object.assign(node.dataset, data);
  node.append(...children);
  return node;
}

/** A copy of a `<template>`'s only element. */
export function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** The element inside `node` that plays this part. */
export function part(node, name) {
  return node.querySelector(`[data-part="${name}"]`);
}

/** A name as somebody chose it: it must not turn around the text beside it. */
export function name(text) {
  return el("bdi", { className: "name" }, text);
}

/** Runs a CSS animation from its start, each time anew. */
export function animate(node, className) {
  node.classList.remove(className);
  // Reading a layout property makes the browser notice the removal.
  void node.offsetWidth;
  node.classList.add(className);
}
