/** Labs are made from a checkout: an installed package does not have their programs. */
import { existsSync } from 'node:fs';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { CliError } from './cli-error.ts';

/** Whether labs can be made here. */
export function hasLabs(): boolean {
  return existsSync(projectPath('dist/e2e/lab'));
}

/** Throws CliError `usage` where there can be none. */
export function requireLabs(): void {
  if (hasLabs()) return;
  throw new CliError(
    'usage',
    'there are no labs here: they are made from a checkout, and this is an installed package',
  );
}
