/** The version of this package. */
import { readFileSync } from 'node:fs';
import { projectPath } from './project-path.ts';

/** Version of package.json, which lies beside the programs. Throws when it cannot be read. */
export function packageVersion(): string {
  const parsed: unknown = JSON.parse(readFileSync(projectPath('package.json'), 'utf8'));
  const version =
    typeof parsed === 'object' && parsed !== null && 'version' in parsed
      ? parsed.version
      : undefined;
  return String(version);
}
