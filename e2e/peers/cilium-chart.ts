/** Cilium's own Helm chart, as it comes with the Go module of a test peer. */
import { join } from 'node:path';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { run } from '../lab/command.ts';

const MODULE = 'github.com/cilium/cilium';
const DOWNLOAD_TIMEOUT_MS = 300_000;

/**
 * Folder of the chart of a peer, such as `cilium-1.20`, in the version that its module pins. The Go module cache has it, or
 * gets it. Throws LabError `command` where Go cannot.
 */
export async function ciliumChart(peer: string): Promise<string> {
  const said = await run(
    ['go', '-C', projectPath(`e2e/peers/${peer}`), 'mod', 'download', '-json', MODULE],
    { timeoutMs: DOWNLOAD_TIMEOUT_MS },
  );
  const { Dir } = JSON.parse(said);
  return join(String(Dir), 'install/kubernetes/cilium');
}
