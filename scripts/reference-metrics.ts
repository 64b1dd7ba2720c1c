/** The page of metrics, taken from the calls in the source that register them. */
import { readdir, readFile } from 'node:fs/promises';
import ts from 'typescript';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { markdownTable } from './reference-options.ts';

interface Family {
  readonly name: string;
  readonly kind: string;
  readonly labels: readonly string[];
  readonly help: string;
}

/** Folders, and whose metrics are registered there. */
const FOLDERS: readonly (readonly [string, string])[] = [
  ['agent', 'clustermesh-agent'],
  ['clustermesh-apiserver', 'clustermesh-apiserver'],
  ['mesh', 'Both programs'],
];
const NAME = /^(isthmus|cilium|process|nodejs)_[a-z0-9_]+$/;
/** Families whose name begins with that of the program they are in. */
const SUFFIX = /^_[a-z0-9_]+$/;

/** Makes the page. */
export async function metricsPage(introduction: string): Promise<string> {
  const parts: string[] = ['# Metrics\n', `${introduction}\n`];
  for (const [folder, title] of FOLDERS) {
    const families = new Map<string, Family>();
    for (const file of await sources(folder)) {
      for (const family of familiesIn(file, await readFile(projectPath(file), 'utf8'))) {
        families.set(family.name, family);
      }
    }
    const rows = [...families.values()]
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, kind, labels, help }) => [`\`${name}\``, kind, labels.join(', '), help]);
    parts.push(`## ${title}\n`, markdownTable(['Metric', 'Type', 'Labels', 'What it is'], rows));
  }
  return parts.join('\n');
}

async function sources(folder: string): Promise<string[]> {
  const entries = await readdir(projectPath(folder), { recursive: true });
  return entries
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .filter((name) => !name.split('/').includes('testing'))
    .map((name) => `${folder}/${name}`)
    .sort();
}

/** Calls `x.gauge('name', { help, labels })` and the like, and those of helpers that take a name and a help text. */
function familiesIn(file: string, text: string): Family[] {
  const found: Family[] = [];
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true);
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node)) {
      const family = familyOf(node);
      if (family !== undefined) found.push(family);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function familyOf({ expression, arguments: given }: ts.CallExpression): Family | undefined {
  const [first, second] = given;
  const name = first === undefined ? undefined : nameIn(first);
  if (name === undefined || second === undefined) return undefined;
  const called = ts.isPropertyAccessExpression(expression) ? expression.name.text : '';
  const help = ts.isObjectLiteralExpression(second)
    ? textOf(property(second, 'help'))
    : textOf(second);
  if (help === undefined) return undefined;
  const labels = ts.isObjectLiteralExpression(second) ? property(second, 'labels') : undefined;
  return {
    name,
    kind: kindOf(called, name),
    labels:
      labels !== undefined && ts.isArrayLiteralExpression(labels)
        ? labels.elements.flatMap((element) => textOf(element) ?? [])
        : [],
    help,
  };
}

/** A name in full, or one behind the program's own: `${prefix}_name`. */
function nameIn(node: ts.Expression): string | undefined {
  const text = textOf(node);
  if (text !== undefined) return NAME.test(text) ? text : undefined;
  if (!ts.isTemplateExpression(node)) return undefined;
  const [span] = node.templateSpans;
  const suffix = span?.literal.text ?? '';
  if (node.templateSpans.length !== 1 || !SUFFIX.test(suffix)) return undefined;
  return `${node.head.text || '<program>'}${suffix}`;
}

function kindOf(called: string, name: string): string {
  if (called === 'gauge' || called === 'counter') return called;
  if (called.toLowerCase().includes('histogram')) return 'histogram';
  return name.endsWith('_total') ? 'counter' : 'gauge';
}

function property(object: ts.ObjectLiteralExpression, name: string): ts.Expression | undefined {
  for (const member of object.properties) {
    if (ts.isPropertyAssignment(member) && member.name.getText() === name) {
      return member.initializer;
    }
  }
  return undefined;
}

function textOf(node: ts.Expression | undefined): string | undefined {
  return node !== undefined && ts.isStringLiteralLike(node) ? node.text : undefined;
}
