/** What can be proven of the documentation: links lead somewhere, commands are such that we take, the reference is what the code says. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'tap';
import { wholeProgram } from '../cli/program.ts';
import { createCliContext } from '../cli/testing/cli-run.ts';
import { exampleArguments } from '../cli/testing/examples.ts';
import { parseProblem } from '../cli/testing/parse-only.ts';
import { PROBLEMS } from '../mesh/diagnosis/problems.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** Pages whose commands are read by our own parser: those that people follow line by line. */
const GUIDES = [
  'quick-start',
  'troubleshooting',
  'gitops',
  'upgrade',
  'uninstall',
  'two-kind-clusters',
  'two-cilium-clusters',
  'cilium-and-isthmus',
];

async function pages(): Promise<string[]> {
  const docs = await readdir(projectPath('docs'), { recursive: true });
  return ['README.md', 'CONTRIBUTING.md', ...docs.map((name) => `docs/${name}`)].filter((name) =>
    name.endsWith('.md'),
  );
}

/** Without blocks and spans of code, where brackets mean something else. */
function prose(text: string): string {
  return text.replace(/^```.*?^```$/gms, '').replace(/`[^`\n]*`/g, 'code');
}

/** Anchors of a page's headings, as GitHub makes them. */
function anchors(text: string): Set<string> {
  const found = new Set<string>();
  for (const [, heading = ''] of text
    .replace(/^```.*?^```$/gms, '')
    .matchAll(/^#{1,6} +(.+?) *$/gm)) {
    const words = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M} _-]/gu, '')
      .replaceAll(' ', '-');
    let anchor = words;
    for (let count = 1; found.has(anchor); count += 1) anchor = `${words}-${count}`;
    found.add(anchor);
  }
  return found;
}

test('links and anchors of the documentation lead somewhere', async (t) => {
  const broken: string[] = [];
  let count = 0;
  for (const page of await pages()) {
    const text = await readFile(projectPath(page), 'utf8');
    for (const [, target = ''] of prose(text).matchAll(/\]\(([^()\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      count += 1;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? page : normalize(join(dirname(page), path));
      if (!existsSync(projectPath(file))) {
        broken.push(`${page}: ${target}: there is no ${file}`);
      } else if (anchor !== undefined && file.endsWith('.md')) {
        const other = await readFile(projectPath(file), 'utf8');
        if (!anchors(other).has(anchor)) broken.push(`${page}: ${target}: no such heading`);
      }
    }
  }
  t.same(broken, []);
  t.ok(count > 30, `${count} links`);
});

test('every problem that the programs name has its section', async (t) => {
  const found = anchors(await readFile(projectPath('docs/troubleshooting.md'), 'utf8'));
  t.same(
    Object.keys(PROBLEMS).filter((id) => !found.has(id)),
    [],
  );
});

test('docs/reference and the sections of problems are what the code says', async (t) => {
  const script = projectPath('dist/scripts/reference.js');
  const { stdout } = await promisify(execFile)(process.execPath, [script, '--check']).catch(
    (error: { stdout: string }) => error,
  );
  t.equal(stdout, '');
});

test('every command of the guides is one that the program takes', async (t) => {
  const problems: string[] = [];
  let count = 0;
  for (const guide of GUIDES) {
    const text = await readFile(projectPath(`docs/${guide}.md`), 'utf8');
    for (const line of commandLines(text)) {
      count += 1;
      const problem = await parseProblem(exampleArguments(line));
      if (problem !== undefined) problems.push(`${guide}.md: ${line}: ${problem}`);
    }
  }
  t.same(problems, []);
  t.ok(count > 30, `${count} commands`);
});

/** Lines of blocks of code that call the program, from its name on. */
function commandLines(text: string): string[] {
  const blocks = [...text.matchAll(/^```(?:console)?\n(.*?)^```$/gms)].map(
    ([, block = '']) => block,
  );
  return blocks.flatMap((block) =>
    block.split('\n').flatMap((line) => {
      const isOutput = block.includes('\n$ ') || block.startsWith('$ ');
      if (isOutput && !line.startsWith('$ ')) return [];
      const found = /(?:^|\$ |npx |\| |-- )(clustermesh [a-z].*?)(?: {2,}#.*)?$/.exec(line)?.[1];
      return found === undefined ? [] : [found.replace(/ \|\| .*| \\$/, '')];
    }),
  );
}

type Command = Awaited<ReturnType<typeof wholeProgram>>;

test('every command of the reference has its heading', async (t) => {
  const found = anchors(await readFile(projectPath('docs/reference/cli.md'), 'utf8'));
  const missing: string[] = [];
  const look = (command: Command, path: readonly string[]): void => {
    if (path.length > 0 && !found.has(['clustermesh', ...path].join('-'))) {
      missing.push(path.join(' '));
    }
    for (const sub of command.createHelp().visibleCommands(command)) {
      if (sub.name() !== 'help') look(sub, [...path, sub.name()]);
    }
  };
  look(await wholeProgram(createCliContext()), []);
  t.same(missing, []);
});
