/** Numbers given on the command line: `--peers 250` or `--peers=250`. */
export function parseSizes<Sizes extends Readonly<Record<string, number>>>(
  args: readonly string[],
  defaults: Sizes,
): { readonly [Name in keyof Sizes]: number } {
  const sizes: { [Name in keyof Sizes]: number } = { ...defaults };
  const known = Object.keys(defaults);
  const words = args.flatMap((arg) => arg.split('=', 2));
  for (let index = 0; index < words.length; index += 2) {
    const name = words[index]?.replace(/^--/, '');
    const value = words[index + 1];
    const found = known.find((key) => `--${key}` === words[index]);
    if (found === undefined) {
      const flags = known.map((key) => `--${key} N`).join(' ');
      throw new Error(`cannot understand ${words[index]}: expected some of ${flags}`);
    }
    if (value === undefined || !/^\d+$/.test(value)) {
      throw new Error(`cannot understand --${name} ${value ?? ''}: expected a whole number`);
    }
    Object.assign(sizes, { [found]: Number(value) });
  }
  return sizes;
}
