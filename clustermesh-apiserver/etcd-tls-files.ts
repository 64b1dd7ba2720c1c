/** The certificate for an etcd that others run, from the files that options name. */
import { readFile } from 'node:fs/promises';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import { OptionsError } from '../mesh/runtime/options.ts';
import type { EtcdTlsFiles } from './etcd/follow-tls-files.ts';

/** Reads the three files, or none. Throws OptionsError naming the flag at fault. */
export async function readEtcdTlsFiles(values: {
  readonly etcdCaFile: string | undefined;
  readonly etcdCertFile: string | undefined;
  readonly etcdKeyFile: string | undefined;
}): Promise<EtcdTls | undefined> {
  const { etcdCaFile: ca, etcdCertFile: cert, etcdKeyFile: key } = values;
  if (ca === undefined && cert === undefined && key === undefined) return undefined;
  if (ca === undefined || cert === undefined || key === undefined) {
    throw new OptionsError(
      'usage',
      '--etcd-ca-file, --etcd-cert-file and --etcd-key-file belong together: give all three or none',
    );
  }
  return {
    ca: await readOptionFile('--etcd-ca-file', ca),
    cert: await readOptionFile('--etcd-cert-file', cert),
    key: await readOptionFile('--etcd-key-file', key),
  };
}

/** Paths of the three files; undefined without them. */
export function etcdTlsPaths(values: {
  readonly etcdCaFile: string | undefined;
  readonly etcdCertFile: string | undefined;
  readonly etcdKeyFile: string | undefined;
}): EtcdTlsFiles | undefined {
  const { etcdCaFile: ca, etcdCertFile: cert, etcdKeyFile: key } = values;
  return ca === undefined || cert === undefined || key === undefined
    ? undefined
    : { ca, cert, key };
}

async function readOptionFile(flag: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OptionsError('usage', `${flag}: cannot read ${path}: ${why}`, { cause });
  }
}
