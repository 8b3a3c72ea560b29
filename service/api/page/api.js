// Requests to the service, and the problems that it answers with.

import {current, headers, wanted} from "./key.js";

/** What went wrong, as the service's problem document says it. */
export class Trouble extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

export const AWAY = {title: "The service does not answer", detail: "The request did not reach it, or its answer did not come.", hint: "Is it running, and is this machine connected? Then try again."};

export async function problemIn(answer) {
  try {
    const body = await answer.json();
    if (body.title) return body;
  } catch { /* no problem document */ }
  return {title: answer.statusText || "An answer that is none", status: answer.status, detail: `The service answered ${answer.status}.`};
}

/** The answer to a request. Throws Trouble unless it is a success; asks for a key where one is needed. */
export async function ask(path, options = {}) {
  for (;;) {
    const carried = current();
    let answer;
    try {
      answer = await fetch(path, {...options, headers: {Accept: "application/json", ...options.headers, ...headers()}});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble(AWAY);
    }
    if (answer.ok) return answer;
    const problem = answer.body ? await problemIn(answer) : {title: answer.statusText, status: answer.status, detail: `The service answered ${answer.status}.`};
    if (answer.status !== 401) throw new Trouble(problem);
    if (carried === current()) await wanted(problem);
  }
}

export const get = async (path, options) => (await ask(path, options)).json();

/** An address with a query of what is given. */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const modelAt = reference => `/models/${encodeURIComponent(reference).replace("%40", "@")}`;
