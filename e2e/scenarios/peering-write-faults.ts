/**
 * Ends an apiserver by SIGKILL at one of the writes of its peering, or stops it nowhere and notes them all. Loaded before the
 * program, as `node --import=<this>?folder=<folder>`: what the program calls to write is wrapped, the program itself is the one
 * that ships.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';

/** What a test wishes: the end at the write of that number, counted from 1 since the wish; 0: never. */
export interface WriteFault {
  readonly id: string;
  readonly at: number;
  /** `half`: of a file one half is written, of anything else nothing. */
  readonly when: 'before' | 'half' | 'after';
}

/** File of the wish, and file of the writes since it: a line each. */
export const FAULT_FILES = { wish: 'wish.json', writes: 'writes' } as const;

const folder = new URL(import.meta.url).searchParams.get('folder');
if (folder !== null) wrapWrites(folder);

function wrapWrites(folder: string): void {
  let wishId = '';
  let count = 0;
  /** The number of this write, and what is to become of it. */
  const enter = (what: string): WriteFault['when'] | undefined => {
    const wish = JSON.parse(readFileSync(join(folder, FAULT_FILES.wish), 'utf8')) as WriteFault;
    if (wish.id !== wishId) {
      wishId = wish.id;
      count = 0;
    }
    count += 1;
    appendFileSync(join(folder, FAULT_FILES.writes), `${wish.id} ${what}\n`);
    return count === wish.at ? wish.when : undefined;
  };
  const die = (): never => {
    process.kill(process.pid, 'SIGKILL');
    throw new Error('nobody outlives this');
  };
  wrapFiles({ enter, die });
  wrapHttp({ enter, die });
}

interface Faults {
  readonly enter: (what: string) => WriteFault['when'] | undefined;
  readonly die: () => never;
}

/** Files of peers, and of the managed folders. */
function wrapFiles({ enter, die }: Faults): void {
  const isOurs = (path: unknown): path is string =>
    typeof path === 'string' && /\/(peers|peering)\//.test(path);
  const { writeFile, rename, rm } = fs;
  fs.writeFile = async (path, content, options) => {
    if (!isOurs(path)) return writeFile(path, content, options);
    const when = enter(`write ${nameOf(path)}`);
    if (when === 'before') die();
    if (when === 'half' && typeof content === 'string') {
      writeFileSync(path, content.slice(0, content.length / 2));
      die();
    }
    await writeFile(path, content, options);
    if (when !== undefined) die();
  };
  fs.rename = async (from, to) => {
    if (!isOurs(to)) return rename(from, to);
    const when = enter(`rename ${nameOf(to)}`);
    if (when === 'before' || when === 'half') die();
    await rename(from, to);
    if (when !== undefined) die();
  };
  fs.rm = async (path, options) => {
    if (!isOurs(path)) return rm(path, options);
    const when = enter(`remove ${nameOf(path)}`);
    if (when === 'before' || when === 'half') die();
    await rm(path, options);
    if (when !== undefined) die();
  };
  syncBuiltinESMExports();
}

/** The last two parts of a path, without what is there by chance. */
function nameOf(path: string): string {
  return path
    .split('/')
    .slice(-2)
    .join('/')
    .replace(/\.[0-9a-f]{12}\./, '.HASH.')
    .replace(/\.[0-9a-f]+\.tmp$/, '.tmp');
}

/** The history in etcd, and MeshPeer objects of an API server. */
function wrapHttp({ enter, die }: Faults): void {
  const require = createRequire(import.meta.url);
  const http2 = require('node:http2') as typeof import('node:http2');
  const https = require('node:https') as typeof import('node:https');
  const { connect } = http2;
  http2.connect = ((...args: Parameters<typeof connect>) => {
    const session: ClientHttp2Session = connect(...args);
    const { request } = session;
    session.request = ((...call: Parameters<typeof request>) => {
      const stream = request.apply(session, call);
      const path = String((call[0] as Record<string, unknown> | undefined)?.[':path']);
      if (path === '/etcdserverpb.KV/Txn') wrapTransaction(stream, { enter, die });
      return stream;
    }) as typeof request;
    return session;
  }) as typeof connect;
  const { request } = https;
  https.request = ((...args: Parameters<typeof request>) => {
    const [options] = args as unknown as [{ method?: string; path?: string }];
    const { method = 'GET', path = '' } = options;
    const isOurs = path.includes('/meshpeers') && !path.endsWith('/status') && method !== 'GET';
    const when = isOurs ? enter(`${method} ${path}`) : undefined;
    if (when === 'before' || when === 'half') die();
    const sent = request(...args);
    if (when === 'after') sent.prependListener('response', die);
    return sent;
  }) as typeof request;
  syncBuiltinESMExports();
}

function wrapTransaction(stream: ClientHttp2Stream, { enter, die }: Faults): void {
  const write = stream.write.bind(stream) as (chunk: unknown, ...rest: unknown[]) => boolean;
  stream.write = ((chunk: unknown, ...rest: unknown[]) => {
    const isOurs = Buffer.isBuffer(chunk) && chunk.includes('/registry/peer-history/');
    const when = isOurs ? enter('put history') : undefined;
    if (when === 'before' || when === 'half') die();
    if (when === 'after') stream.prependListener('response', die);
    return write(chunk, ...rest);
  }) as typeof stream.write;
}
