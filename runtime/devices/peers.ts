/** Packages that only some devices need: optional peers, which npm does not install with the rest. */

interface Peer {
  readonly brings: string;
  readonly install: string;
}

/** The versions are those of runtime/package.json. */
const peers = {
  koffi: { brings: "calls of native libraries", install: "npm install koffi@3" },
  webgpu: { brings: "WebGPU outside of a browser (Dawn)", install: "npm install webgpu@0.6" },
} as const satisfies Record<string, Peer>;

/** What to throw where `import(name)` failed: who needs the package, what it brings, and what installs it. */
export function missingPeer(who: string, name: keyof typeof peers, cause: unknown): Error {
  const { brings, install } = peers[name];
  const isThere = (cause as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND";
  const why = isThere ? `, which cannot be loaded (${firstLine(cause)})` : "";
  return new Error(
    `${who} needs the package ${name}, which brings ${brings}${why}: install it with \`${install}\``,
    { cause },
  );
}

function firstLine(error: unknown): string {
  return String(error instanceof Error ? error.message : error).split("\n", 1)[0]!;
}
