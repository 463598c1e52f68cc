/** Beyond any text encoder that was trained: what a file asks for is held to these before memory is taken. */
export const textLimits = { vocabSize: 2 ** 20, width: 2 ** 14, inner: 2 ** 16, layers: 256, length: 2 ** 14 }
