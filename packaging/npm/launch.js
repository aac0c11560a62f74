#!/usr/bin/env node
// Runs the program of this platform's package in place of itself.
"use strict";

const { constants } = require("node:os");
const { spawn } = require("node:child_process");

const name = `@cbroker/${process.platform}-${process.arch}`;
let program;
try {
  program = require.resolve(`${name}/bin/cbroker`);
} catch {
  console.error(`cbroker: there is no program for this platform: ${name} is not installed`);
  console.error("hint: npm leaves it out with --omit=optional; else see the README for cargo");
  process.exit(1);
}

const given = process.argv.slice(2);
if (typeof process.execve === "function") {
  // Node is gone after this: signals, the terminal and the exit code are the program's own. Node
  // warns that the call is new.
  process.removeAllListeners("warning");
  process.execve(program, ["cbroker", ...given], process.env);
}

// An older Node stays as the parent, and hands on signals and the exit code.
const child = spawn(program, given, { stdio: "inherit", argv0: "cbroker" });
for (const signal of ["SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT"]) {
  process.on(signal, () => child.kill(signal));
}
child.on("error", (error) => {
  console.error(`cbroker: cannot run ${program}: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => {
  process.exit(signal === null ? code : 128 + constants.signals[signal]);
});
