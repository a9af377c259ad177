/** Pieces of C-like text. */

/** Does code, comments aside, name something? */
export function mentions(lines: readonly string[], word: string): boolean {
  const pattern = new RegExp(`\\b${word}\\b`);
  return lines.some((line) => pattern.test(line.replace(/\/\/.*/, "")));
}

/** Brackets around what is more than one word. */
export function group(text: string): string {
  return /^[\w.]+$/.test(text) ? text : `(${text})`;
}

/** Infix functions as text; operands that are sums or calls keep their own brackets. */
export function infix(fn: string, [a, b]: readonly string[]): string | null {
  const word = { add: "+", sub: "-", mul: "*", div: "/" }[fn];
  return word === undefined ? null : `(${a} ${word} ${b})`;
}

/** Without brackets around the whole. */
export function bare(text: string): string {
  if (!text.startsWith("(") || !text.endsWith(")")) return text;
  let depth = 0;
  for (let i = 0; i < text.length - 1; i++) {
    if (text[i] === "(") depth++;
    if (text[i] === ")") depth--;
    if (depth === 0) return text;
  }
  return text.slice(1, -1);
}

/** i++, or i += step. */
export function advance(name: string, sign: "+" | "-", step: string): string {
  return step === "1" ? `${name}${sign}${sign}` : `${name} ${sign}= ${step}`;
}
