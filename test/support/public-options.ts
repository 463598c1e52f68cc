/** Every option of the public functions and methods, as the type checker sees them in the compiled declarations. */
import type { Project, Signature, Type, Symbol as TypeSymbol } from 'typescript/unstable/sync' with {
  'resolution-mode': 'import',
}

/** A call with an object of options. */
export interface OptionsCall {
  /** 'DDPM.sample', 'new DDPM'. */
  readonly method: string
  /** TypeScript text before and after the object. */
  readonly before: string
  readonly after: string
  readonly options: readonly Option[]
}

export interface Option {
  readonly name: string
  /** Of an object of options within, such as unetConfig. */
  readonly options: readonly Option[]
}

/**
 * The calls that the module `file` exports, where it is imported as `library`. What is declared outside of `root` (URL, AbortSignal)
 * has no options of ours.
 */
export async function optionsCalls(project: Project, file: string, root: string): Promise<OptionsCall[]> {
  const { SignatureKind, SymbolFlags } = await import('typescript/unstable/sync')
  const { SyntaxKind } = await import('typescript/unstable/ast')
  const { checker, program } = project
  const calls: OptionsCall[] = []

  const isClosed = (declaration: TypeSymbol['valueDeclaration']) => {
    const { modifiers } = (declaration?.resolve() ?? {}) as { modifiers?: { kind: number }[] }
    const hidden: number[] = [SyntaxKind.ProtectedKeyword, SyntaxKind.PrivateKeyword]
    return modifiers?.some(({ kind }) => hidden.includes(kind)) ?? false
  }
  const isHidden = (symbol: TypeSymbol) =>
    isClosed(symbol.valueDeclaration) || symbol.getJsDocTags(checker).some(({ name }) => name === 'internal')
  const optionsOf = (type: Type | undefined): Option[] => {
    const given = type && checker.getNonNullableType(type)
    if (!given || !(given.isObjectType() || given.isIntersectionType())) return []
    if ((given.getSymbol()?.flags ?? 0) & SymbolFlags.Class) return []
    if (checker.getSignaturesOfType(given, SignatureKind.Call).length > 0) return []
    const properties = checker.getPropertiesOfType(given)
    if (properties.some(({ declarations }) => declarations.some(({ path }) => !path.startsWith(root)))) return []
    return properties.map((property) => ({
      name: property.name,
      options: optionsOf(checker.getTypeOfSymbol(property)),
    }))
  }
  const add = (method: string, callee: string, [signature]: readonly Signature[]) => {
    const parameters = signature?.getParameters() ?? []
    for (const [i, parameter] of parameters.entries()) {
      const options = optionsOf(checker.getTypeOfSymbol(parameter))
      if (options.length === 0) continue
      const others = (n: number) => Array.from({ length: n }, () => 'null!')
      const [before, after] = [others(i), others(parameters.length - i - 1)]
      calls.push({
        method,
        before: `${callee}(${before.map((text) => `${text}, `).join('')}`,
        after: `${after.map((text) => `, ${text}`).join('')})`,
        options,
      })
    }
  }

  const module = checker.getSymbolAtLocation(program.getSourceFile(file)!)!
  for (const exported of checker.getExportsOfModule(module)) {
    const symbol = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    if (!(symbol.flags & (SymbolFlags.Class | SymbolFlags.Function))) continue
    const name = `library.${symbol.name}`
    const type = checker.getTypeOfSymbol(symbol)!
    const signatures = checker.getSignaturesOfType(type, SignatureKind.Construct)
    if (signatures.some(({ isAbstract }) => isAbstract)) continue // its methods are those of DDPM
    add(symbol.name, name, checker.getSignaturesOfType(type, SignatureKind.Call))
    const open = signatures.filter(({ declaration }) => !isClosed(declaration))
    add(`new ${symbol.name}`, `new ${name}`, open)
    if (!(symbol.flags & SymbolFlags.Class)) continue
    const owners: [string, Type][] = [
      [name, type],
      [`(null! as ${name})`, checker.getDeclaredTypeOfSymbol(symbol)],
    ]
    for (const [owner, members] of owners) {
      for (const member of checker.getPropertiesOfType(members)) {
        if (isHidden(member)) continue
        const found = checker.getSignaturesOfType(checker.getTypeOfSymbol(member)!, SignatureKind.Call)
        add(`${symbol.name}.${member.name}`, `${owner}.${member.name}`, found)
      }
    }
  }
  return calls
}
