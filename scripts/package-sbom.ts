/**
 * Writes the list of materials of a packaged program, as CycloneDX 1.5, to standard output: npm packages, and the files that
 * others have built. To be called by `scripts/package-tree.sh` with the folder that it has filled; standard input names the
 * files of others, each with where it was found, separated by a tab. The same tree gives the same bytes.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** One thing in the package, as CycloneDX has it. */
interface Component {
  readonly 'bom-ref': string;
  readonly type: 'library' | 'application';
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly licenses?: readonly { readonly license: { readonly name: string } }[];
  readonly hashes?: readonly { readonly alg: string; readonly content: string }[];
  readonly properties?: readonly { readonly name: string; readonly value: string }[];
}

/** What npm writes about an installed package. */
const INSTALLED = z.object({
  version: z.string(),
  integrity: z.string().optional(),
  license: z.string().optional(),
  dependencies: z.record(z.string(), z.string()).default({}),
  optionalDependencies: z.record(z.string(), z.string()).default({}),
});
type Installed = z.infer<typeof INSTALLED>;
const LOCK = z.object({ packages: z.record(z.string(), INSTALLED) });
const MANIFEST = z.object({
  name: z.string(),
  version: z.string(),
  license: z.string(),
  dependencies: z.record(z.string(), z.string()),
});

const MODULES = 'node_modules/';

const [tree] = process.argv.slice(2);
if (tree === undefined) throw new Error('usage: package-sbom.js FOLDER < ORIGINS');
process.stdout.write(`${JSON.stringify(describe(tree, readFileSync(0, 'utf8')), null, 1)}\n`);

function describe(tree: string, origins: string): Record<string, unknown> {
  const manifest = MANIFEST.parse(readJson(join(tree, 'package.json')));
  const { packages } = LOCK.parse(readJson(projectPath('node_modules/.package-lock.json')));
  const installed = new Map(
    Object.entries(packages).filter(([place]) => existsSync(join(tree, place))),
  );
  const npm = [...installed].map(([place, entry]) => npmComponent(place, entry));
  const foreign = origins
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => foreignComponent(tree, line));
  const components = distinct([...npm, ...foreign]);
  const reference = `${manifest.name}@${manifest.version}`;
  const needed = (place: string, names: Readonly<Record<string, string>>): string[] => [
    ...new Set(Object.keys(names).flatMap((name) => resolve(installed, place, name))),
  ];
  const dependencies = distinct([
    {
      'bom-ref': reference,
      dependsOn: [
        ...needed('', manifest.dependencies),
        ...foreign.map((component) => component['bom-ref']),
      ],
    },
    ...[...installed].map(([place, entry]) => ({
      'bom-ref': npmReference(place, entry),
      dependsOn: needed(`${place}/`, { ...entry.dependencies, ...entry.optionalDependencies }),
    })),
  ]).map(({ 'bom-ref': ref, dependsOn }) => ({ ref, dependsOn }));
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    version: 1,
    metadata: {
      timestamp: new Date(Number(process.env.SOURCE_DATE_EPOCH ?? 0) * 1000).toISOString(),
      component: {
        'bom-ref': reference,
        type: 'application',
        name: manifest.name,
        version: manifest.version,
        purl: `pkg:generic/${reference}`,
        licenses: [{ license: { id: manifest.license } }],
      },
    },
    components,
    dependencies,
  };
}

function npmComponent(place: string, entry: Installed): Component {
  const name = npmName(place);
  return {
    'bom-ref': npmReference(place, entry),
    type: 'library',
    name,
    version: entry.version,
    purl: `pkg:npm/${name.replace('@', '%40')}@${entry.version}`,
    ...(entry.license === undefined ? {} : { licenses: [{ license: { name: entry.license } }] }),
    ...(entry.integrity?.startsWith('sha512-')
      ? { hashes: [{ alg: 'SHA-512', content: hexOf(entry.integrity.slice('sha512-'.length)) }] }
      : {}),
  };
}

function npmName(place: string): string {
  return place.slice(place.lastIndexOf(MODULES) + MODULES.length);
}

function npmReference(place: string, { version }: Installed): string {
  return `${npmName(place)}@${version}`;
}

/** The package that Node would load for a name, from nearest to farthest; none: an optional one for another platform. */
function resolve(
  installed: ReadonlyMap<string, Installed>,
  from: string,
  name: string,
): readonly string[] {
  for (let folder = from; ; folder = folder.slice(0, folder.lastIndexOf(MODULES))) {
    const place = `${folder}${MODULES}${name}`;
    const found = installed.get(place);
    if (found !== undefined) return [npmReference(place, found)];
    if (folder === '') return [];
  }
}

/** A file that somebody else has built: of a Debian package, or Node as its makers publish it. */
function foreignComponent(tree: string, line: string): Component {
  const [file, origin] = line.split('\t');
  if (file === undefined || origin === undefined) {
    throw new Error(`cannot read "${line}": expected a file, a tab and where it was found`);
  }
  const hash = createHash('sha256')
    .update(readFileSync(join(tree, file)))
    .digest('hex');
  const rest = {
    hashes: [{ alg: 'SHA-256', content: hash }],
    properties: [{ name: 'isthmus:file', value: file }],
  };
  if (file === 'runtime/node') {
    const version = process.versions.node;
    const reference = `node@${version}`;
    const purl = `pkg:generic/${reference}`;
    return { 'bom-ref': reference, type: 'application', name: 'node', version, purl, ...rest };
  }
  const { name, version, architecture } = debianPackageOf(origin);
  const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}`;
  return { 'bom-ref': `deb:${name}@${version}`, type: 'library', name, version, purl, ...rest };
}

/** Throws for a file that no package has: what nobody can name must not be shipped. */
function debianPackageOf(origin: string): { name: string; version: string; architecture: string } {
  // Where /lib is a link to /usr/lib, dpkg knows a file by either path.
  for (const path of [origin, origin.replace(/^\/usr\/lib\//, '/lib/')]) {
    try {
      const owner = query(['-S', path]).split(': ')[0] ?? '';
      // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own form
      const format = '${Package}\t${Version}\t${Architecture}';
      const [name = '', version = '', architecture = ''] = query(['-W', `-f=${format}`, owner])
        .split('\n')[0]
        ?.split('\t') ?? [''];
      return { name, version, architecture };
    } catch (error) {
      // Exit code 1: it knows no such file.
      if (!(error instanceof Error && 'status' in error && error.status === 1)) throw error;
    }
  }
  throw new Error(
    `cannot tell which Debian package ${origin} is of: expected one that dpkg -S names`,
  );
}

function query(args: readonly string[]): string {
  return execFileSync('dpkg-query', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

/** One of each, in the order of their names. */
function distinct<T extends { readonly 'bom-ref': string }>(all: readonly T[]): T[] {
  const byReference = new Map(all.map((one) => [one['bom-ref'], one]));
  return [...byReference.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, one]) => one);
}

function hexOf(base64: string): string {
  return Buffer.from(base64, 'base64').toString('hex');
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}
