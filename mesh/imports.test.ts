import { readdir, readFile } from 'node:fs/promises';
import { isBuiltin } from 'node:module';
import { posix } from 'node:path';
import { test } from 'tap';
import { projectPath } from './runtime/project-path.ts';

/** An import as found in a source file. */
interface Import {
  /** Importing file, relative to the package's root. */
  readonly file: string;
  /** What is imported: a package or `node:` name, or a file relative to the root. */
  readonly target: string;
  readonly isPackage: boolean;
}

/** Which of our own folders a folder may import. The first matching prefix counts, a folder may always import itself. */
const FOLDERS: readonly { folder: string; mayImport: readonly string[]; because: string }[] = [
  {
    folder: 'mesh/wire/',
    mayImport: [],
    because: 'formats are pure functions: whoever decodes a value must not open a socket by it',
  },
  {
    folder: 'mesh/runtime/',
    mayImport: ['mesh/wire/'],
    because: 'it is the ground: all else stands on it; options have the parsers of the formats',
  },
  {
    folder: 'mesh/kvstore/',
    mayImport: ['mesh/wire/', 'mesh/runtime/'],
    because: 'the store knows keys and values as bytes, and nothing of who uses them',
  },
  {
    folder: 'mesh/testing/',
    mayImport: ['mesh/'],
    because: 'every part tests with it, so it may depend on none of them',
  },
  {
    folder: 'mesh/',
    mayImport: ['mesh/'],
    because: 'all programs share it, so it imports none of them',
  },
  {
    folder: 'clustermesh-apiserver/etcd/',
    mayImport: ['mesh/', 'pki/', 'clustermesh-apiserver/gate/'],
    because:
      'the embedded etcd has a CA of its own, made at each start, whose key never leaves memory; its upkeep speaks to etcd in bytes, as the gate does',
  },
  {
    folder: 'clustermesh-apiserver/registry/',
    mayImport: ['mesh/', 'pki/', 'clustermesh-apiserver/'],
    because:
      'the registry signs machines, with an authority that can sign nothing else; what it stands on is the rest of the apiserver',
  },
  {
    folder: 'clustermesh-apiserver/',
    mayImport: ['mesh/'],
    because: 'daemons meet on the wire alone: each can be replaced by a Cilium one',
  },
  {
    folder: 'agent/',
    mayImport: ['mesh/'],
    because: 'daemons meet on the wire alone: each can be replaced by a Cilium one',
  },
  {
    folder: 'pki/',
    mayImport: ['mesh/'],
    because: 'the daemons never hold what can sign certificates',
  },
  {
    folder: 'cli/',
    mayImport: [
      'mesh/',
      'pki/',
      'agent/policy/',
      'agent/machine/',
      'clustermesh-apiserver/kubernetes/',
      'e2e/lab/',
    ],
    because:
      "the command line asks daemons over their sockets, like every other client; `lab` is a command, policies are checked without an agent by the agent's own pure reader, a machine joins before it has an agent, and a kubeconfig is read as the apiserver reads it",
  },
  {
    folder: 'bench/',
    mayImport: ['mesh/', 'clustermesh-apiserver/', 'agent/', 'pki/', 'cli/', 'e2e/'],
    because: 'it stands at the end: nothing else may import it',
  },
  {
    folder: 'e2e/',
    mayImport: ['mesh/', 'clustermesh-apiserver/', 'agent/', 'pki/', 'cli/'],
    because: 'it stands at the end, with the benchmarks',
  },
  {
    folder: 'scripts/',
    mayImport: ['mesh/', 'agent/', 'clustermesh-apiserver/', 'cli/'],
    because: 'it builds and runs the rest from outside, and writes the reference from its tables',
  },
];

/** Where a test may look further than the code beside it. */
const TEST_FOLDERS: readonly string[] = ['mesh/', 'pki/', 'clustermesh-apiserver/', 'agent/'];

/** Packages that only some files may import: each stands behind an interface of ours, so that it can be replaced. */
const PACKAGES: readonly { name: string; importers: readonly RegExp[]; because: string }[] = [
  {
    name: 'etcd3',
    importers: [/^mesh\/kvstore\/etcd[^/]*\.ts$/],
    because:
      'its watcher loses events and its breaker fails calls; what is left of it stays behind KvStore',
  },
  {
    name: 'pino',
    importers: [/^mesh\/runtime\/log\.ts$/],
    because: 'redaction and format of the logs are set in one place; loggers are passed in',
  },
  {
    name: 'prom-client',
    importers: [/^mesh\/runtime\/metrics\.ts$/],
    because:
      'values are asked for at a scrape, so no part of the programs needs to know of metrics',
  },
  {
    name: 'commander',
    importers: [/^mesh\/runtime\/options\.ts$/, /^cli\//, /^scripts\/reference-cli\.ts$/],
    because: 'options are declared in tables, from which documentation can be made',
  },
  {
    name: '@kubernetes/client-node',
    importers: [/^clustermesh-apiserver\/kubernetes\/credentials\.ts$/],
    because:
      'its informer ends at errors, its agents keep no connection and it takes 80 MB: only what it knows of kubeconfigs is used',
  },
  {
    name: 'koffi',
    importers: [/^agent\/datapath\/(bpf|libbpf|lock|ring-buffer)\.ts$/],
    because: 'calls into C are checked by nobody: they stay in files that are read with care',
  },
  {
    name: 'node-forge',
    importers: [/^pki\//],
    because: 'it builds our certificates and does nothing else: its parsers have a record of bugs',
  },
  {
    name: '@grpc/grpc-js',
    importers: [
      /^mesh\/runtime\/grpc-[^/]*\.ts$/,
      /^mesh\/kvstore\//,
      /^mesh\/testing\/hostile-etcd\.ts$/,
      /^clustermesh-apiserver\/(gate|registry)\//,
      /^agent\/registry\/session[^/]*\.ts$/,
      /^cli\/(registry-client|backup-command)\.ts$/,
      /^e2e\/scenarios\/credentials\.test\.ts$/,
    ],
    because:
      'windows, keepalive and message limits must be the same everywhere, and its defaults are not',
  },
  {
    name: '@grpc/proto-loader',
    importers: [
      /^mesh\/runtime\/proto-file\.ts$/,
      /^mesh\/kvstore\//,
      /^clustermesh-apiserver\/(gate|registry)\//,
      /^agent\/registry\/session[^/]*\.ts$/,
    ],
    because: 'protocol files are loaded with one set of rules for names and numbers',
  },
  {
    name: 'ipaddr.js',
    importers: [/^mesh\/wire\/ip\.ts$/],
    because: 'an address has one canonical text; a second parser would make a second one',
  },
  {
    name: '@bokuweb/zstd-wasm',
    importers: [/^mesh\/wire\/zstd\.ts$/],
    because: 'it takes as much memory as a header asks for, so the header is looked at first',
  },
  {
    name: 'dns-packet',
    importers: [/^agent\/dns\/(answer[^/]*|resolver\.test)\.ts$/],
    because: 'what it makes of bytes of strangers is judged in one place',
  },
  {
    name: 'fast-check',
    importers: [/\.test\.ts$/, /\/testing\//, /^e2e\//],
    because: 'it is not installed where the programs run',
  },
  {
    name: 'tap',
    importers: [
      /\.test\.ts$/,
      /^mesh\/kvstore\/conformance[^/]*\.ts$/,
      /\/testing\//,
      /^e2e\//,
      /^scripts\/test-shared\.ts$/,
    ],
    because: 'it is not installed where the programs run',
  },
  {
    name: 'tap-parser',
    importers: [/^scripts\//],
    because: 'it is not installed where the programs run',
  },
];

/** Modules of Node that make a folder impure. */
const PURE_FOLDERS: readonly { folder: string; allowed: readonly string[] }[] = [
  {
    folder: 'mesh/wire/',
    allowed: ['node:buffer', 'node:net', 'node:util', 'node:crypto', 'node:assert'],
  },
  {
    folder: 'clustermesh-apiserver/convert/',
    allowed: ['node:buffer', 'node:net', 'node:util', 'node:crypto'],
  },
  { folder: 'agent/merge/', allowed: ['node:buffer', 'node:net', 'node:util', 'node:crypto'] },
  { folder: 'agent/policy/', allowed: ['node:buffer', 'node:net', 'node:util', 'node:crypto'] },
];

test('imports go one way', async (t) => {
  for (const found of await allImports()) {
    if (found.isPackage || mayImport(found)) continue;
    const rule = ruleOf(found.file);
    t.fail(
      `${found.file} imports ${found.target}: ${rule?.because ?? 'its folder is in no rule of this test'}`,
    );
  }
  t.pass('all were looked at');
});

test('each package has its importers', async (t) => {
  for (const { file, target, isPackage } of await allImports()) {
    if (!isPackage) continue;
    const rule = PACKAGES.find(({ name }) => target === name || target.startsWith(`${name}/`));
    if (rule === undefined || rule.importers.some((pattern) => pattern.test(file))) continue;
    t.fail(`${file} imports ${target}: ${rule.because}`);
  }
  t.pass('all were looked at');
});

test('every package imported is a dependency', async (t) => {
  const manifest: unknown = JSON.parse(await readFile(projectPath('package.json'), 'utf8'));
  const { dependencies, devDependencies } = manifest as Record<string, Record<string, string>>;
  for (const { file, target, isPackage } of await allImports()) {
    if (!isPackage || isBuiltin(target)) continue;
    const name = target
      .split('/')
      .slice(0, target.startsWith('@') ? 2 : 1)
      .join('/');
    const atRunTime = name in (dependencies ?? {});
    const inTests =
      name in (devDependencies ?? {}) &&
      (isTest(file) || /^(scripts|e2e)\//.test(file) || /conformance|\/testing\//.test(file));
    if (!atRunTime && !inTests)
      t.fail(`${file} imports ${name}, which package.json does not have as a dependency`);
  }
  t.pass('all were looked at');
});

test('pure folders touch nothing', async (t) => {
  for (const { file, target } of await allImports()) {
    const pure = PURE_FOLDERS.find(({ folder }) => file.startsWith(folder));
    if (pure === undefined || isTest(file) || !isBuiltin(target)) continue;
    if (pure.allowed.includes(target)) continue;
    t.fail(`${file} imports ${target}: ${pure.folder} holds functions of their arguments alone`);
  }
  t.pass('all were looked at');
});

test('files import with their ending, and node modules with their scheme', async (t) => {
  for (const { file, target, isPackage } of await allImports()) {
    if (isPackage && isBuiltin(target) && !target.startsWith('node:')) {
      t.fail(`${file} imports ${target}: write node:${target}`);
    }
    if (!isPackage && !/\.(ts|json)$/.test(target))
      t.fail(`${file} imports ${target}: it lacks .ts`);
  }
  t.pass('all were looked at');
});

test('only main.ts touches arguments, environment and exit', async (t) => {
  for (const file of await sourceFiles()) {
    const isProgram =
      posix.basename(file) === 'main.ts' || file.startsWith('scripts/') || file === 'e2e/demo.ts';
    if (isProgram || isTest(file)) continue;
    const found = /\bprocess\.(argv|env|exit)\b/.exec(
      withoutComments(await readFile(projectPath(file), 'utf8')),
    );
    if (found !== null)
      t.fail(`${file} uses ${found[0]}: options are parsed in main.ts and passed on`);
  }
  t.pass('all were looked at');
});

test('the search for imports finds every form', (t) => {
  const source = [
    "import { a } from './a.ts';",
    'import {\n  b,\n} from "../b.ts";',
    "import type { C } from 'c';",
    "export { d } from './d.ts';",
    "import 'e';",
    "await import('../f.ts');",
    "// import { g } from 'g';",
    "/* import { h } from 'h'; */",
  ].join('\n');
  t.same(
    importsOf('x/y.ts', source).map(({ target }) => target),
    ['x/a.ts', 'b.ts', 'c', 'x/d.ts', 'e', 'f.ts'],
  );
  t.end();
});

function mayImport({ file, target }: Import): boolean {
  const rule = ruleOf(file);
  if (rule === undefined) return false;
  const isRules = target.startsWith(rule.folder);
  if (isRules || rule.mayImport.some((folder) => target.startsWith(folder))) return true;
  // Tests of the daemons may play the other end of the wire, and issue certificates.
  return isTest(file) && TEST_FOLDERS.some((folder) => target.startsWith(folder));
}

function ruleOf(file: string) {
  return FOLDERS.find(({ folder }) => file.startsWith(folder));
}

function isTest(file: string): boolean {
  return (
    file.endsWith('.test.ts') || file.includes('/testing/') || /\/conformance[^/]*\.ts$/.test(file)
  );
}

async function allImports(): Promise<Import[]> {
  const found: Import[] = [];
  for (const file of await sourceFiles()) {
    // The examples in this file are no imports.
    if (file === 'mesh/imports.test.ts') continue;
    found.push(...importsOf(file, await readFile(projectPath(file), 'utf8')));
  }
  return found;
}

async function sourceFiles(): Promise<string[]> {
  const files: string[] = [];
  for (const { folder } of FOLDERS) {
    const entries = await readdir(projectPath(folder), { recursive: true }).catch(
      (error: unknown) => {
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
        throw error;
      },
    );
    for (const entry of entries) if (entry.endsWith('.ts')) files.push(posix.join(folder, entry));
  }
  return [...new Set(files)].sort();
}

function importsOf(file: string, source: string): Import[] {
  const pattern =
    /(?:^|\s)(?:import|export)\s(?:[^'"();]*?\sfrom\s*)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/g;
  return [...withoutComments(source).matchAll(pattern)].map((match) => {
    const written = match[1] ?? match[2] ?? '';
    const isPackage = !written.startsWith('.');
    const target = isPackage ? written : posix.join(posix.dirname(file), written);
    return { file, target, isPackage };
  });
}

function withoutComments(source: string): string {
  return source.replace(/^\s*(\/\/|\*|\/\*).*$/gm, '');
}
