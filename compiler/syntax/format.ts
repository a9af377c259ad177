/** Formats a text with the prettier plugin of this room. Throws SyntaxError on a text with mistakes. */
import { format } from "prettier/standalone";
import plugin from "./prettier-plugin.ts";

export function formatSource(text: string): Promise<string> {
  return format(text, { parser: "lasp", plugins: [plugin], printWidth: 100 });
}
