/** The certificate for an etcd that others run, renewed while we run. */
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { watchFiles } from '../gate/watch-files.ts';

/** Paths of the three files. */
export interface EtcdTlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/**
 * Hands on what the files hold whenever they have changed, until `signal` aborts. Files that cannot be read or used, as when
 * only one of them has been replaced so far, are told of and change nothing.
 */
export async function followTlsFiles(
  files: EtcdTlsFiles,
  options: {
    /** Throws KvError `invalid` for certificates that cannot be used. */
    readonly use: (tls: EtcdTls) => void;
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { use, clock, logger, signal } = options;
  let isFirst = true;
  for await (const contents of watchFiles([files.ca, files.cert, files.key], { signal, clock })) {
    if (isFirst) {
      // These are in use already.
      isFirst = false;
      continue;
    }
    const [ca, cert, key] = [files.ca, files.cert, files.key].map((path) => contents.get(path));
    if (!Buffer.isBuffer(ca) || !Buffer.isBuffer(cert) || !Buffer.isBuffer(key)) {
      logger.warn(
        { ...files },
        'cannot read the certificate for etcd, the one before stays in use',
      );
      continue;
    }
    try {
      use({ ca, cert, key });
      logger.info({ ...files }, 'another certificate for etcd is in use');
    } catch (error) {
      if (!(error instanceof KvError)) throw error;
      logger.warn(
        { err: error },
        'cannot use the certificate for etcd, the one before stays in use',
      );
    }
  }
}
