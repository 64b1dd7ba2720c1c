import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EndpointStoreError } from './endpoint-error.ts';
import { decodeRecord, type EndpointRecord, encodeRecord } from './record.ts';

/** Endpoints on disk, one file each, so that a restarted agent knows them. */
export interface EndpointStore {
  /** Everything that could be read; ids of files that could not, with why. */
  load(): { records: EndpointRecord[]; unreadable: ReadonlyMap<number, string> };
  /** Writes a record; a reader sees the old or the new one, never a half. */
  save(record: EndpointRecord): void;
  remove(endpointId: number): void;
}

const FILE_NAME = /^([1-9]\d{0,4})\.json$/;

/** Opens (and makes) `<stateDir>/endpoints`. Throws EndpointStoreError when it cannot be used. */
export function openEndpointStore(stateDir: string): EndpointStore {
  const directory = join(stateDir, 'endpoints');
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new EndpointStoreError(
      `cannot make ${directory}: ${messageOf(cause)}: give --state-dir a folder that the agent may write`,
      { cause },
    );
  }
  const fileOf = (endpointId: number): string => join(directory, `${endpointId}.json`);
  return {
    load() {
      const records: EndpointRecord[] = [];
      const unreadable = new Map<number, string>();
      for (const name of readdirSync(directory).sort()) {
        const match = FILE_NAME.exec(name);
        if (match === null) continue;
        const endpointId = Number(match[1]);
        try {
          const record = decodeRecord(
            readFileSync(join(directory, name), 'utf8'),
            join(directory, name),
          );
          if (record.endpointId !== endpointId) {
            throw new EndpointStoreError(
              `cannot read ${fileOf(endpointId)}: it holds endpoint ${record.endpointId}`,
            );
          }
          records.push(record);
        } catch (error) {
          unreadable.set(endpointId, messageOf(error));
        }
      }
      return { records, unreadable };
    },
    save(record) {
      const file = fileOf(record.endpointId);
      try {
        writeFileSync(`${file}.tmp`, encodeRecord(record), { mode: 0o600, flush: true });
        renameSync(`${file}.tmp`, file);
      } catch (cause) {
        throw new EndpointStoreError(`cannot write ${file}: ${messageOf(cause)}`, { cause });
      }
    },
    remove(endpointId) {
      try {
        rmSync(fileOf(endpointId), { force: true });
      } catch (cause) {
        throw new EndpointStoreError(`cannot remove ${fileOf(endpointId)}: ${messageOf(cause)}`, {
          cause,
        });
      }
    },
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
