/** Selectors of labels as kubectl takes them after `-l`: `app=web,tier!=db,zone in (a,b),canary,!old`. */
import { InvalidArgumentError } from 'commander';

/** Whether labels fit. */
export type LabelSelector = (labels: Readonly<Record<string, string>>) => boolean;

const KEY = String.raw`[\w./:-]+`;
const SET = new RegExp(String.raw`^(${KEY})\s+(in|notin)\s+\(([^()]*)\)$`);
const EQUAL = new RegExp(String.raw`^(${KEY})\s*(=|==|!=)\s*([\w.:/-]*)$`);
const PRESENT = new RegExp(String.raw`^(!?)\s*(${KEY})$`);

/** Parses one; all of its parts must fit. Throws InvalidArgumentError. */
export function parseLabelSelector(text: string): LabelSelector {
  // Commas within parentheses part values.
  const parts = text.split(/,(?![^(]*\))/).map((part) => parsePart(part.trim()));
  return (labels) => parts.every((fits) => fits(labels));
}

function parsePart(text: string): LabelSelector {
  const set = SET.exec(text);
  if (set !== null) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((value) => value.trim());
    return operator === 'in'
      ? (labels) => key in labels && values.includes(labels[key] ?? '')
      : (labels) => !(key in labels) || !values.includes(labels[key] ?? '');
  }
  const equal = EQUAL.exec(text);
  if (equal !== null) {
    const [, key = '', operator, value] = equal;
    return operator === '!='
      ? (labels) => labels[key] !== value
      : (labels) => key in labels && labels[key] === value;
  }
  const present = PRESENT.exec(text);
  if (present === null) {
    throw new InvalidArgumentError(
      `"${text}": expected key=value, key!=value, "key in (a,b)", "key notin (a,b)", key or !key`,
    );
  }
  const [, not, key = ''] = present;
  return (labels) => key in labels !== (not === '!');
}
