/** CustomResourceDefinitions of Cilium and of MCS-API, as `scripts/peers.sh` finds them in the Go modules it builds from. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { waitFor } from '../lab/wait-for.ts';
import type { KubeRequester } from './kube-request.ts';

/** Where they are: one file each, named for the resource, such as `ciliumnodes.yaml`. */
const FOLDERS = {
  cilium: 'dist/peers/cilium-1.20/crds/cilium',
  'mcs-api': 'dist/peers/cilium-1.20/crds/mcs-api',
} as const;

/** A set of CRDs. */
export type CrdSet = keyof typeof FOLDERS;

/** Names of the peers' files for `needPeers`. */
export const crdPeers: readonly string[] = Object.values(FOLDERS).map((folder) =>
  folder.replace('dist/peers/', ''),
);

/**
 * Files of the CRDs that are asked for, each a set (`cilium`, `mcs-api`) or a resource's name (`ciliumnodes`,
 * `serviceexports`). Throws for one that is not there.
 */
export async function crdFiles(names: readonly string[]): Promise<string[]> {
  const files: { set: string; resource: string; path: string }[] = [];
  for (const [set, folder] of Object.entries(FOLDERS)) {
    const path = projectPath(folder);
    for (const file of await readdir(path)) {
      files.push({ set, resource: file.replace(/\.yaml$/, ''), path: join(path, file) });
    }
  }
  return names.flatMap((name) => {
    const found = files.filter((file) => file.set === name || file.resource === name);
    if (found.length === 0) throw new Error(`cannot find a CRD for ${name} in dist/peers`);
    return found.map((file) => file.path);
  });
}

/**
 * Applies the files and waits until every version of every resource is served. `kubectl wait` is of no use here: it fails on one
 * that has no conditions yet.
 */
export async function installCrds(
  files: readonly string[],
  by: {
    readonly kubectl: (args: readonly string[]) => Promise<string>;
    readonly requester: KubeRequester;
  },
): Promise<void> {
  const flags = files.flatMap((file) => ['-f', file]);
  await by.kubectl(['apply', '--server-side', ...flags]);
  const each =
    '{range .items[*]}{range .spec.versions[?(@.served==true)]}{.name}{" "}{end}{.spec.group} {.spec.names.plural}{"\\n"}{end}';
  const known = await by.kubectl(['get', 'crd', `-o=jsonpath=${each}`]);
  for (const line of known.trim().split('\n')) {
    const words = line.split(' ');
    const [group, plural] = words.slice(-2);
    for (const version of words.slice(0, -2)) {
      const path = `/apis/${group}/${version}/${plural}?limit=1`;
      await waitFor(`${path} to be served`, async () => {
        return (await by.requester.send('GET', path)).status === 200;
      });
    }
  }
}
