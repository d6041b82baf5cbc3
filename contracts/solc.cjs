// Makes solc-js look like the solc program to forge: `--version`, and `--standard-json`
// with the input on stdin. Imports are read from the base path, as solc itself would.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const args = process.argv.slice(2);

function options(name) {
  return args.filter((_, at) => args[at - 1] === name);
}

// process.stdout.write followed by an exit cuts a pipe off at 64 KiB.
function print(text) {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) {
    try {
      done += fs.writeSync(1, bytes, done);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

function readImport(name) {
  const roots = [...options("--base-path"), ...options("--include-path"), process.cwd()];
  for (const root of roots) {
    const file = path.resolve(root, name);
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, "utf8") };
  }
  return { error: `no such source: ${name}` };
}

if (args.includes("--version")) {
  print(`solc, the solidity compiler\nVersion: ${solc.version()}\n`);
} else {
  print(solc.compile(fs.readFileSync(0, "utf8"), { import: readImport }));
}
