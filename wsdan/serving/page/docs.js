"use strict";

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function table(caption, rows) {
  const body = element("tbody", "", ...rows.map(([name, kind, text]) =>
    element("tr", "", element("th", "", element("code", name)), ...(kind ? [element("td", kind)] : []), element("td", text || ""))));
  for (const head of body.querySelectorAll("th")) head.scope = "row";
  return element("table", "", element("caption", caption), body);
}

const kindOf = (schema) => {
  const kind = [schema.type].flat().filter(Boolean).join(" or ");
  return kind === "array" && schema.items ? `list of ${kindOf(schema.items)}` : kind;
};

/** One row for each property, those within it after it. */
function rows(schema, before = "") {
  return Object.entries(schema.properties || {}).flatMap(([name, value]) => {
    const inner = value.items && value.items.properties ? [value.items, "[]"] : [value, ""];
    return [[before + name, kindOf(value), value.description], ...rows(inner[0], `${before}${name}${inner[1]}.`)];
  });
}

function operation(path, method, about) {
  const made = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", about.summary));
  if (path === "/predict") {
    const here = new URL("predict", document.baseURI);
    made.append(element("pre", "", element("code", `curl -F file=@photo.jpg '${here}?top=3'`)));
  }
  for (const [kind, body] of Object.entries((about.requestBody || {}).content || {})) made.append(table(kind, rows(body.schema)));
  if ((about.parameters || []).length) {
    made.append(element("p", `Also in the query: ${about.parameters.map((item) => item.name).join(", ")}. The body wins.`));
  }
  const answers = Object.entries(about.responses);
  const json = (answer) => ((answer.content || {})["application/json"] || {}).schema || {};
  made.append(table("Status", answers.map(([status, answer]) => [status, "", answer.description])));
  for (const [status, answer] of answers) {
    if (status < 300 && rows(json(answer)).length) made.append(table(`Answer ${status}`, rows(json(answer))));
  }
  return made;
}

async function load() {
  const description = await (await fetch("openapi.json")).json();
  document.getElementById("operations").replaceChildren(
    ...Object.entries(description.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, about]) => operation(path, method, about))),
  );
}

load().catch(() => { document.getElementById("operations").textContent = "openapi.json cannot be read. Is the server still running?"; });
