/** Records whose keys are names that people chose: `constructor` is one like any other. */

/** What a record itself has by this name, never what JavaScript gives to every object. */
export function ownOf<T>(
  record: Readonly<Record<string, T>> | undefined,
  name: string,
): T | undefined {
  return record !== undefined && Object.hasOwn(record, name) ? record[name] : undefined;
}
