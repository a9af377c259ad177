/** Text of others, for people to read. */

const mostCharacters = 4096;

/**
 * The text without what moves a terminal's cursor, breaks lines or turns the direction of text, which is written as in a
 * string: ESC reads `\x1b`. Cut where it is long.
 */
export function printable(text: string): string {
  return text
    .slice(0, mostCharacters)
    .replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) => {
      const code = character.codePointAt(0)!.toString(16);
      return code.length <= 2 ? `\\x${code.padStart(2, "0")}` : `\\u${code.padStart(4, "0")}`;
    });
}
