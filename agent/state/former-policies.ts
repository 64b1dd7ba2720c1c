/** Versions of policies that stay in force because a later one cannot be read, kept over restarts of the agent. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  decodeLocalPolicy,
  encodeLocalPolicy,
  type LocalPolicy,
} from '../../mesh/wire/local-policy.ts';

const SCHEMA = 1;

const fileSchema = z.object({
  schema: z.literal(SCHEMA),
  policies: z.array(z.object({ key: z.string(), value: z.string() })),
});

/** Versions by the key of their policy. */
export interface FormerPolicies {
  get(key: string): LocalPolicy | undefined;
  /** Keeps one; undefined: it is not needed any more. What cannot be written is logged: it is kept until the end. */
  set(key: string, policy: LocalPolicy | undefined): void;
  /** Forgets those of policies that are not there any more. */
  prune(isThere: (key: string) => boolean): void;
}

/** Opens `<stateDir>/former-policies.json`. A file that cannot be read is reported, and as if there were none. */
export function openFormerPolicies(stateDir: string, logger: Logger): FormerPolicies {
  const file = join(stateDir, 'former-policies.json');
  const policies = readPolicies(file, logger);

  const save = (): void => {
    const content = {
      schema: SCHEMA,
      policies: [...policies].map(([key, policy]) => ({ key, value: encodeLocalPolicy(policy) })),
    };
    try {
      writeFileSync(`${file}.tmp`, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
      renameSync(`${file}.tmp`, file);
    } catch (error) {
      logger.error({ file, err: error }, 'policies in force cannot be kept for a restart');
    }
  };

  return {
    get: (key) => policies.get(key),
    set(key, policy) {
      if (policy === undefined ? !policies.delete(key) : policies.get(key) === policy) return;
      if (policy !== undefined) policies.set(key, policy);
      save();
    },
    prune(isThere) {
      const gone = [...policies.keys()].filter((key) => !isThere(key));
      for (const key of gone) policies.delete(key);
      if (gone.length > 0) save();
    },
  };
}

function readPolicies(file: string, logger: Logger): Map<string, LocalPolicy> {
  try {
    const { policies } = fileSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
    return new Map(policies.map(({ key, value }) => [key, decodeLocalPolicy(value, key)]));
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!isMissing)
      logger.error({ file, err: error }, 'policies that were in force cannot be read');
    return new Map();
  }
}
