// Bundles the fuzzer of rules and runs it: npm run fuzz -- --help
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { bundle } from "./bundle.mjs";

const root = join(import.meta.dirname, "..");
const outfile = await bundle("test/fuzz/main.ts", "fuzz/main.js");
const driver = join(root, "node_modules/.cache/laspc/swiftshader/vk_swiftshader_icd.json");
if (existsSync(driver)) process.env["VK_ICD_FILENAMES"] ??= driver;
await import(pathToFileURL(outfile).href);
