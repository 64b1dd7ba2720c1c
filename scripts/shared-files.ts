/** How a process that several test files share says which of them has ended. */
export const END_OF_FILE = 'end of ';
