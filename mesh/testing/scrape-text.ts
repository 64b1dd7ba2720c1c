/** Reads back what a scrape answers, strictly: a line that Prometheus would refuse is an error here. */

/** One series of a scrape. */
export interface ScrapedSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A scrape that was read back. */
export interface Scrape {
  readonly samples: readonly ScrapedSample[];
  /** Types by family: `counter`, `gauge`, `histogram`, `summary`. */
  readonly types: ReadonlyMap<string, string>;
  /** Value of the one series with that name and at least these labels; undefined when there is none. Throws for several. */
  value(name: string, labels?: Readonly<Record<string, string>>): number | undefined;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/;

/** Parses Prometheus' text format. Throws Error for what is not it, for a series twice, and for a series without a family. */
export function parseScrape(text: string): Scrape {
  const samples: ScrapedSample[] = [];
  const types = new Map<string, string>();
  const seen = new Set<string>();
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ')) continue;
    if (line.startsWith('# TYPE ')) {
      const [, , name = '', type = ''] = line.split(' ');
      if (types.has(name)) throw new Error(`family ${name} is there twice`);
      types.set(name, type);
      continue;
    }
    const sample = parseLine(line);
    const id = JSON.stringify([sample.name, Object.entries(sample.labels).sort()]);
    if (seen.has(id)) throw new Error(`series is there twice: ${line}`);
    seen.add(id);
    const family = sample.name.replace(/_(bucket|sum|count)$/, '');
    if (!types.has(sample.name) && !types.has(family)) throw new Error(`no family: ${line}`);
    samples.push(sample);
  }
  return {
    samples,
    types,
    value(name, labels = {}) {
      const found = samples.filter(
        (sample) =>
          sample.name === name &&
          Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
      );
      if (found.length > 1) throw new Error(`${found.length} series of ${name}: give more labels`);
      return found[0]?.value;
    },
  };
}

function parseLine(line: string): ScrapedSample {
  const match = LINE.exec(line);
  if (match === null) throw new Error(`no series: ${line}`);
  const [, name = '', labelText = '', valueText = ''] = match;
  const labels: Record<string, string> = {};
  for (let rest = labelText; rest !== ''; ) {
    const label = LABEL.exec(rest);
    if (label === null) throw new Error(`no label at ${rest} of: ${line}`);
    const [whole, key = '', value = ''] = label;
    labels[key] = value.replace(/\\(.)/g, (_, character: string) =>
      character === 'n' ? '\n' : character,
    );
    rest = rest.slice(whole.length);
  }
  const value = valueText === '+Inf' ? Number.POSITIVE_INFINITY : Number(valueText);
  if (Number.isNaN(value) && valueText.toLowerCase() !== 'nan')
    throw new Error(`no number: ${line}`);
  return { name, labels, value };
}
