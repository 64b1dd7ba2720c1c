/** What a Dockerfile says, as far as ours goes: one instruction a line, lines continued by a backslash. */

/** One instruction. */
export interface DockerInstruction {
  /** In capitals. */
  readonly name: string;
  /** What follows, with single spaces where lines were continued. */
  readonly text: string;
}

/** What begins at a FROM. */
export interface DockerStage {
  readonly image: string;
  /** Name by which later stages copy from it. */
  readonly name: string | undefined;
  readonly instructions: readonly DockerInstruction[];
}

/** Stages in their order. Throws for an instruction before the first FROM, which ours does not have. */
export function parseDockerfile(text: string): DockerStage[] {
  const lines = text
    .split('\n')
    .filter((line) => !/^\s*(#|$)/.test(line))
    .join('\n')
    .replace(/\\\n\s*/g, ' ')
    .split('\n');
  const stages: { image: string; name: string | undefined; instructions: DockerInstruction[] }[] =
    [];
  for (const line of lines) {
    const [, name = '', rest = ''] = /^(\S+)\s+(.*)$/.exec(line) ?? [];
    if (name === 'FROM') {
      const [, image = '', stage] = /^(\S+)(?:\s+AS\s+(\S+))?$/.exec(rest) ?? [];
      stages.push({ image, name: stage, instructions: [] });
      continue;
    }
    const stage = stages.at(-1);
    if (stage === undefined) throw new Error(`cannot place "${line}": expected FROM before it`);
    stage.instructions.push({ name, text: rest });
  }
  return stages;
}

/** Arguments of the instructions of a name. */
export function argumentsOf(stage: DockerStage | undefined, name: string): string[] {
  return (stage?.instructions ?? [])
    .filter((instruction) => instruction.name === name)
    .map(({ text }) => text);
}
